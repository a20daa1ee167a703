//! Names beside routes: the DNS server on a thread of the daemon's.
//!
//! What is wrong at the start ends the daemon, as it ends `portolan dns`. Later on neither half may stop
//! the other: a server that ends for a reason of its own (it asks itself, it panics, an address is lost
//! on a reload) is started again after a while, and routes go on meanwhile.

use super::local::{Local, Options as LocalOptions};
use super::own::{Own, OwnAndOthers};
use crate::error::Error;
use crate::run::Event;
use ::dns::instance::{self, Instance, Options, Source};
use nix::sys::signal::Signal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use telemetry::{error, info};

/// So many words to the server may wait.
const EVENTS_MAX: usize = 16;
/// How long we wait before a server that has ended is started again, and at most.
const AGAIN_FIRST: Duration = Duration::from_secs(10);
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// What the server is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) corefile: PathBuf,
    /// It is to answer for the cluster DNS Service's address.
    pub(crate) local: Option<LocalOptions>,
}

/// The server, understood and not yet at work.
pub(crate) struct Names {
    wanted: Wanted,
    instance: Instance,
    own: Arc<Own>,
    local: Option<Arc<Local>>,
    control: Control,
    events: Receiver<instance::Event>,
}

/// The server at work.
pub(crate) struct Running {
    control: Control,
    thread: JoinHandle<()>,
}

/// The way to tell it something.
#[derive(Clone)]
pub(crate) struct Control {
    events: SyncSender<instance::Event>,
    /// The signal that we are to end by.
    ends: Arc<Mutex<Option<Signal>>>,
    /// It has ended because it asks itself.
    looped: Arc<AtomicBool>,
    /// The way to it.
    local: Arc<OnceLock<Arc<Local>>>,
}

impl Names {
    /// Reads the Corefile and finds out what it wants; opens nothing.
    pub(crate) fn prepare(wanted: Wanted, own: Arc<Own>) -> Result<Names, Error> {
        let (sender, events) = sync_channel(EVENTS_MAX);
        let local = Arc::new(OnceLock::new());
        let (ends, looped) = (Arc::default(), Arc::default());
        let control = Control { events: sender, ends, looped, local };
        let instance = Instance::prepare(options(&wanted, &own, &control))?;
        Ok(Names { wanted, instance, own, local: None, control, events })
    }

    /// Makes the way from the cluster DNS Service's address to the server, if it is to answer for it.
    pub(crate) fn open_way(&mut self) -> Result<Option<Arc<Local>>, Error> {
        let Some(options) = self.wanted.local.clone() else { return Ok(None) };
        let local = Arc::new(Local::open(options)?);
        // It has not been set before.
        let _ = self.control.local.set(local.clone());
        self.local = Some(local.clone());
        Ok(Some(local))
    }

    /// The way to tell it something.
    pub(crate) fn control(&self) -> Control {
        self.control.clone()
    }

    /// Lets it work. What makes its start impossible is told to the daemon, and so is its end once it
    /// was told to end.
    pub(crate) fn start(self, daemon: SyncSender<Event>) -> Result<Running, Error> {
        let control = self.control.clone();
        let work = move || {
            let local = self.local.clone();
            let last = self.work();
            if let Some(local) = local {
                local.remove();
            }
            // Without a daemon there is nobody to be told.
            let _ = daemon.send(last);
        };
        let thread = std::thread::Builder::new().name("names".into()).spawn(work);
        let thread = thread.map_err(|e| Error::Start("start the thread that serves names", e))?;
        Ok(Running { control, thread })
    }

    /// Serves until told to end.
    fn work(self) -> Event {
        let Names { wanted, instance, own, local, control, events } = self;
        let mut instance = Ok(instance);
        let (mut started, mut again) = (false, AGAIN_FIRST);
        loop {
            let served = instance.map(|instance| {
                let served = catch_unwind(AssertUnwindSafe(|| instance.serve(&events)));
                served.unwrap_or_else(|_| {
                    error!("names: the server panicked");
                    Ok(())
                })
            });
            let looped = control.looped.swap(false, Ordering::SeqCst);
            if let Some(signal) = control.signal() {
                return Event::Stop(signal);
            }
            match served {
                Ok(Err(error)) | Err(error) if !started => return Event::Fail(error.into()),
                Ok(Err(error)) | Err(error) => error!("names: {}", crate::output::chain(&error)),
                Ok(Ok(())) if looped => error!("names: the server asks itself, and is stopped"),
                Ok(Ok(())) => {}
            }
            started = true;
            info!("names: starting again in {} s; routes go on", again.as_secs());
            if wait_again(&events, &control, again) == Err(RecvTimeoutError::Disconnected) {
                return Event::Stop(Signal::SIGTERM);
            }
            if let Some(signal) = control.signal() {
                return Event::Stop(signal);
            }
            again = (again * 2).min(AGAIN_MAX);
            if let Some(local) = &local {
                local.resume();
            }
            instance = Instance::prepare(options(&wanted, &own, &control));
        }
    }
}

/// Waits until a server that has ended is to be started again. That it was to stop for a reason of its
/// own may be said more than once.
fn wait_again(
    events: &Receiver<instance::Event>,
    control: &Control,
    patience: Duration,
) -> Result<(), RecvTimeoutError> {
    let until = Instant::now() + patience;
    loop {
        match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(instance::Event::StopNow) if control.signal().is_none() => {}
            Ok(_) | Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn options(wanted: &Wanted, own: &Arc<Own>, control: &Control) -> Options {
    let corefile = Source::File(wanted.corefile.clone());
    let mut options = Options::new(corefile, Arc::new(OwnAndOthers(own.clone())));
    if let Some(local) = &wanted.local {
        options.listen = local.addresses().to_vec();
        options.patient = true;
        let way = control.local.clone();
        options.farewell = Some(Arc::new(move || {
            if let Some(local) = way.get() {
                local.withdraw();
            }
        }));
    }
    let control = control.clone();
    let on_loop = move || {
        control.looped.store(true, Ordering::SeqCst);
        // One that has so much to do will come to the loop again.
        let _ = control.events.try_send(instance::Event::StopNow);
    };
    Options { on_loop: Some(Arc::new(on_loop)), ..options }
}

impl Control {
    /// The Corefile is to be read again.
    pub(crate) fn reload(&self) {
        // So many that wait will do it.
        let _ = self.events.try_send(instance::Event::Reload);
    }

    /// It is to end: after its lameduck time by SIGTERM, at once by other signals.
    pub(crate) fn end(&self, signal: Signal) {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = Some(signal);
        let event = match signal {
            Signal::SIGTERM => instance::Event::Stop,
            _ => instance::Event::StopNow,
        };
        // It has been told often enough otherwise.
        let _ = self.events.try_send(event);
    }

    fn signal(&self) -> Option<Signal> {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Waits until it has ended; tells it to if nobody has.
    pub(crate) fn end(self) {
        if self.control.signal().is_none() {
            self.control.end(Signal::SIGTERM);
        }
        // A thread that panicked has ended, too.
        self.thread.join().unwrap_or_default();
    }
}
