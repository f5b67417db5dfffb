//! A server that answers by rule and keeps what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

/// Requests, as `POST /path`, with their bodies.
pub type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// A status and a body.
pub type Reply = (u16, String);

/// Starts a server; it ends with the process of the tests.
pub fn serve(mut rule: impl FnMut(&str, &Value) -> Reply + Send + 'static) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let kept = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some((request, body)) = read(&mut stream) else { continue };
            let (status, text) = rule(&request, &body);
            kept.lock().unwrap().push((request, body));
            let head = format!("HTTP/1.1 {status} -\r\nContent-Length: {}\r\n", text.len());
            // Who asked may be gone already.
            let _ = write!(stream, "{head}Connection: close\r\n\r\n{text}");
        }
    });
    (url, asked)
}

/// The request line without its version, and the body; headers count as part of the body, so that
/// rules can look at them.
fn read(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let request = line.rsplit_once(" HTTP/")?.0.to_owned();
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if let (Some(authorization), Some(body)) = (authorization, body.as_object_mut()) {
        body.insert("authorization".into(), authorization.into());
    }
    Some((request, body))
}

/// The requests alone.
pub fn requests(asked: &Asked) -> Vec<String> {
    asked.lock().unwrap().iter().map(|(request, _)| request.clone()).collect()
}

/// The bodies of one request.
pub fn bodies(asked: &Asked, of: &str) -> Vec<Value> {
    let asked = asked.lock().unwrap();
    asked.iter().filter(|(request, _)| request == of).map(|(_, body)| body.clone()).collect()
}
