//! The server over real sockets.

use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;

fn server() -> (Server, Door) {
    let server = Server::start().expect("a server");
    let handler: Handler = Arc::new(|request: &Request| match request.path.as_str() {
        "/large" => Response::text(200, "x".repeat(4_000_000)),
        "/here" => Response::text(200, "yes\n"),
        _ => Response::not_found(),
    });
    let door = server.open(SocketAddr::from(([127, 0, 0, 1], 0)), handler).expect("a door");
    (server, door)
}

fn connect(door: &Door) -> TcpStream {
    let stream = TcpStream::connect(door.address()).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    stream
}

/// All that comes back until the other side closes.
fn ask(door: &Door, request: &str) -> String {
    let mut stream = connect(door);
    stream.write_all(request.as_bytes()).expect("it takes the request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

#[test]
fn answers_come_in_turn_on_one_connection() {
    let (_server, door) = server();
    let text = ask(
        &door,
        "GET /here HTTP/1.1\r\n\r\nGET /not HTTP/1.1\r\n\r\nHEAD /here HTTP/1.1\r\nConnection: close\r\n\r\n",
    );
    let statuses: Vec<&str> = text.lines().filter(|line| line.starts_with("HTTP/1.1")).collect();
    assert_eq!(statuses, ["HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found", "HTTP/1.1 200 OK"], "{text}");
    assert_eq!(text.matches("yes\n").count(), 1, "{text}");
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let (_server, door) = server();
    let mut stream = connect(&door);
    stream.set_nodelay(true).expect("an option");
    for byte in b"GET /here HTTP/1.0\r\n\r\n" {
        stream.write_all(&[*byte]).expect("it takes a byte");
    }
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    assert!(text.ends_with("\r\n\r\nyes\n"), "{text}");
}

#[test]
fn an_answer_larger_than_any_buffer_comes_whole() {
    let (_server, door) = server();
    let text = ask(&door, "GET /large HTTP/1.0\r\n\r\n");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("Content-Length: 4000000"), "{head}");
    assert_eq!(body.len(), 4_000_000);
}

#[test]
fn nonsense_is_answered_once_and_closed() {
    let (_server, door) = server();
    let text = ask(&door, "nonsense\r\n\r\nGET /here HTTP/1.1\r\n\r\n");
    assert!(text.starts_with("HTTP/1.1 400 ") && !text.contains("yes"), "{text}");
}

#[test]
fn silent_clients_shut_nobody_out() {
    let (_server, door) = server();
    let silent: Vec<TcpStream> = (0..CONNECTIONS_MAX + 20).map(|_| connect(&door)).collect();
    let text = ask(&door, "GET /here HTTP/1.0\r\n\r\n");
    assert!(text.ends_with("yes\n"), "{text}");
    // Those who waited longest had to go.
    let mut gone = [0; 1];
    let first = silent.first().map(|mut stream| stream.read(&mut gone));
    assert!(matches!(first, Some(Ok(0) | Err(_))), "{first:?}");
}

#[test]
fn a_closed_door_is_closed_and_its_place_free() {
    let (server, door) = server();
    let address = door.address();
    assert!(server.open(address, Arc::new(|_| Response::not_found())).is_err(), "there is somebody");
    drop(door);
    assert!(TcpStream::connect(address).is_err(), "nobody is there any more");
    server.open(address, Arc::new(|_| Response::not_found())).expect("it is free");
}

#[test]
fn everywhere_means_both_families() {
    let server = Server::start().expect("a server");
    let handler: Handler = Arc::new(|_| Response::text(200, "yes\n"));
    let door = server.open(SocketAddr::from(([0, 0, 0, 0], 0)), handler).expect("a door");
    let port = door.address().port();
    for address in [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))] {
        TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    }
}
