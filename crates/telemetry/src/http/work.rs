//! The server's thread: waits, takes in, answers.

use super::message::{Parsed, parse};
use super::{CONNECTIONS_MAX, EXCHANGE, HEAD_MAX, Handler, IDLE, Line, Response};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

/// What the bell is called among doors and connections.
const BELL: u64 = 0;
/// Doors and connections have numbers from here on, doors the even, connections the odd halves of
/// what [`key`] makes of them.
pub(super) const FIRST_DOOR: u64 = 1;
/// So many events are taken in at once.
const EVENTS: usize = 64;
/// So long a door is shut when the process has no file descriptor left for who knocks.
const SHUT: Duration = Duration::from_millis(100);

/// What the server's thread is told.
pub(super) enum Command {
    Open { number: u64, listener: Arc<TcpListener>, handler: Handler },
    Close(u64),
    End,
}

struct Listening {
    listener: Arc<TcpListener>,
    handler: Handler,
}

/// One connection.
struct Connection {
    stream: TcpStream,
    handler: Handler,
    /// What has come in and has not been answered.
    received: Vec<u8>,
    /// What is going out, and how much of it has gone.
    answer: Vec<u8>,
    sent: usize,
    /// To be closed once the answer has gone.
    last: bool,
    /// It must have got somewhere by then.
    deadline: Instant,
}

/// How a connection goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Read,
    Write,
    Close,
}

pub(super) struct Work {
    line: Arc<Line>,
    inbox: Receiver<Command>,
    epoll: Epoll,
    doors: HashMap<u64, Listening>,
    connections: HashMap<u64, Connection>,
    next: u64,
}

fn door_key(number: u64) -> u64 {
    number << 1
}

fn connection_key(number: u64) -> u64 {
    number << 1 | 1
}

impl Work {
    pub(super) fn new(line: Arc<Line>, inbox: Receiver<Command>) -> io::Result<Work> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&line.bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        let (doors, connections) = (HashMap::new(), HashMap::new());
        Ok(Work { line, inbox, epoll, doors, connections, next: 0 })
    }

    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let ready = match self.epoll.wait(&mut events, self.patience(Instant::now())) {
                Ok(ready) => ready,
                Err(nix::Error::EINTR) => 0,
                // It can only be a mistake of ours, and must not take the processor with it.
                Err(_) => {
                    std::thread::sleep(SHUT);
                    0
                }
            };
            for event in events.iter().take(ready) {
                match event.data() {
                    BELL => {
                        if self.obey() {
                            return;
                        }
                    }
                    key if key & 1 == 0 => self.admit(key >> 1),
                    key => self.serve(key >> 1),
                }
            }
            self.close_late(Instant::now());
        }
    }

    /// Until something must be closed.
    fn patience(&self, now: Instant) -> EpollTimeout {
        let next = self.connections.values().map(|connection| connection.deadline).min();
        let Some(next) = next else { return EpollTimeout::NONE };
        // Rounded up, so as not to wake just before.
        let wait = next.saturating_duration_since(now) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }

    /// Does what it is told; says whether to end.
    fn obey(&mut self) -> bool {
        let _ = self.line.bell.read();
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Open { number, listener, handler } => {
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, door_key(number));
                    if self.epoll.add(&*listener, event).is_ok() {
                        self.doors.insert(number, Listening { listener, handler });
                    }
                }
                Command::Close(number) => {
                    if let Some(door) = self.doors.remove(&number) {
                        let _ = self.epoll.delete(&*door.listener);
                    }
                }
                Command::End => return true,
            }
        }
        false
    }

    /// Takes in who knocks at a door.
    fn admit(&mut self, door: u64) {
        loop {
            let Some(Listening { listener, handler }) = self.doors.get(&door) else { return };
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                    // It listens no more: whoever closed it is about to say so.
                    io::ErrorKind::InvalidInput => return,
                    _ => {
                        std::thread::sleep(SHUT);
                        return;
                    }
                },
            };
            let handler = handler.clone();
            self.take_in(stream, handler);
        }
    }

    fn take_in(&mut self, stream: TcpStream, handler: Handler) {
        if self.connections.len() >= CONNECTIONS_MAX {
            let first = self.connections.iter().min_by_key(|(_, connection)| connection.deadline);
            if let Some(number) = first.map(|(number, _)| *number) {
                self.connections.remove(&number);
            }
        }
        let number = self.next;
        self.next += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, connection_key(number));
        if stream.set_nonblocking(true).is_err() || self.epoll.add(&stream, event).is_err() {
            return;
        }
        let connection = Connection {
            stream,
            handler,
            received: Vec::new(),
            answer: Vec::new(),
            sent: 0,
            last: false,
            deadline: Instant::now() + EXCHANGE,
        };
        self.connections.insert(number, connection);
    }

    fn serve(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let interest = match connection.go_on() {
            Next::Read => EpollFlags::EPOLLIN,
            Next::Write => EpollFlags::EPOLLOUT,
            Next::Close => {
                self.connections.remove(&number);
                return;
            }
        };
        let mut event = EpollEvent::new(interest, connection_key(number));
        if self.epoll.modify(connection.stream.as_fd(), &mut event).is_err() {
            self.connections.remove(&number);
        }
    }

    fn close_late(&mut self, now: Instant) {
        self.connections.retain(|_, connection| connection.deadline > now);
    }
}

impl Connection {
    /// Does what can be done without waiting.
    fn go_on(&mut self) -> Next {
        loop {
            if !self.answer.is_empty() {
                match self.send() {
                    Ok(true) if self.last => return Next::Close,
                    Ok(true) => {}
                    Ok(false) => return Next::Write,
                    Err(_) => return Next::Close,
                }
            }
            if self.answer_next() {
                continue;
            }
            match self.receive() {
                Ok(true) => {}
                Ok(false) => return Next::Read,
                Err(_) => return Next::Close,
            }
        }
    }

    /// Sends what will go; says whether all has gone.
    fn send(&mut self) -> io::Result<bool> {
        while let Some(rest) = self.answer.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.answer = Vec::new();
        self.sent = 0;
        self.deadline = Instant::now() + IDLE;
        Ok(true)
    }

    /// Makes the answer to the first request that is whole; says whether there was one.
    fn answer_next(&mut self) -> bool {
        let (response, keep, with_body) = match parse(&self.received) {
            Parsed::Incomplete => return false,
            Parsed::Refused(response) => (response, false, true),
            Parsed::Whole(request, length) => {
                self.received.drain(..length);
                let response: Response = (self.handler)(&request);
                (response, request.keep, request.method != "HEAD")
            }
        };
        self.answer = response.bytes(SystemTime::now(), keep, with_body);
        self.last = !keep;
        self.deadline = Instant::now() + EXCHANGE;
        true
    }

    /// Receives what is there; says whether that was anything.
    fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; HEAD_MAX];
        let begins = self.received.is_empty();
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(received) => {
                self.received.extend_from_slice(buffer.get(..received).unwrap_or_default());
                if begins {
                    self.deadline = Instant::now() + EXCHANGE;
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}
