// Rust's standard library as it is usually taught: a thread for each client.
use std::io::{copy, Result};
use std::net::{TcpListener, TcpStream};
use std::thread;

fn echo(stream: TcpStream) -> Result<u64> {
    copy(&mut &stream, &mut &stream)
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).expect("a port");
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || echo(stream));
    }
    Ok(())
}
