//! Requests to a server, and what it answers.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderName, HeaderValue, StatusCode};
use ureq::{Agent, Body};

use crate::base::{Error, Remedy, Result};

/// A server.
pub struct Client {
    url: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    agent: Agent,
}

/// What a server answered.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The body, as text.
    pub text: String,
}

/// Far above any answer.
const MAX_BYTES: u64 = 1 << 28;

/// What of a body an error shows.
const SHOWN: usize = 300;

impl Client {
    /// The server at a URL, such as `http://127.0.0.1:8000`. `headers` go with every request, each
    /// as `Name: value`; a request may take `timeout`.
    ///
    /// # Errors
    ///
    /// A text that is no URL or no header.
    pub fn new(url: &str, headers: &[String], timeout: Duration) -> Result<Client> {
        let url = url.trim_end_matches('/');
        let scheme = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
        if !scheme || url.ends_with("/v1") {
            let what = format!("{url}: is no URL of a server");
            return Err(Error::refused(what, "write it as http://127.0.0.1:8000, without a path"));
        }
        let header = |text: &String| {
            // Not what it is: it may be a key.
            let wrong = || {
                let what = "a header is not of the form Name: value";
                let remedy = Remedy::from("write one as 'Authorization: Bearer KEY'");
                Error::refused(what, remedy.option("header", None))
            };
            let (name, value) = text.split_once(':').ok_or_else(wrong)?;
            let name = name.trim().parse().map_err(|_| wrong())?;
            Ok((name, value.trim().parse().map_err(|_| wrong())?))
        };
        let headers = headers.iter().map(header).collect::<Result<_>>()?;
        let config = Agent::config_builder().timeout_global(Some(timeout));
        let agent = config.http_status_as_error(false).build().new_agent();
        Ok(Client { url: url.to_owned(), headers, agent })
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a GET of a path is answered with, whatever the status.
    ///
    /// # Errors
    ///
    /// A server that cannot be reached, or does not answer in time.
    pub fn get(&self, path: &str) -> Result<Reply> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        self.reply("GET", path, request.call())
    }

    /// The same of a POST.
    ///
    /// # Errors
    ///
    /// As [`get`](Client::get).
    pub fn post(&self, path: &str, body: Option<&Value>) -> Result<Reply> {
        let mut request = self.agent.post(format!("{}{path}", self.url));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let sent = match body {
            Some(body) => request.header("content-type", "application/json").send(body.to_string()),
            None => request.send_empty(),
        };
        self.reply("POST", path, sent)
    }

    /// The JSON that a GET is answered with.
    ///
    /// # Errors
    ///
    /// As [`get`](Client::get); a status that says no, with `help` where there is no such route; an
    /// answer that is no JSON.
    pub fn read(&self, path: &str, help: &str) -> Result<Value> {
        let reply = self.get(path)?;
        self.json(&format!("GET {path}"), &reply, help)
    }

    /// The JSON that a POST is answered with; null where the answer is some other text.
    ///
    /// # Errors
    ///
    /// As [`get`](Client::get); a status that says no, with `help` where there is no such route; an
    /// answer that says that it did not succeed.
    pub fn tell(&self, path: &str, body: Option<&Value>, help: &str) -> Result<Value> {
        let reply = self.post(path, body)?;
        let request = format!("POST {path}");
        if !reply.status.is_success() {
            return Err(self.refused(&request, &reply, help));
        }
        let told: Value = serde_json::from_str(&reply.text).unwrap_or_default();
        match told["success"].as_bool() {
            Some(false) => Err(self.refused(&request, &reply, help)),
            _ => Ok(told),
        }
    }

    /// The JSON that a POST has to be answered with.
    ///
    /// # Errors
    ///
    /// As [`read`](Client::read).
    pub fn ask(&self, path: &str, body: &Value) -> Result<Value> {
        let reply = self.post(path, Some(body))?;
        self.json(&format!("POST {path}"), &reply, LOG)
    }

    /// An error about the server, which is as it was.
    pub fn error(&self, what: impl Into<String>, help: &str) -> Error {
        self.error_in(what.into(), UNTOUCHED, help)
    }

    fn error_in(&self, what: String, state: &str, help: &str) -> Error {
        let (url, remedy) = (self.url.clone(), Box::new(Remedy::from(help)));
        Error::Server { url, what, state: state.into(), remedy }
    }

    /// What the server answered, as an error.
    fn refused(&self, request: &str, reply: &Reply, help: &str) -> Error {
        let mut text: String = reply.text.chars().take(SHOWN).collect();
        if text.len() < reply.text.len() {
            text.push('…');
        }
        let help = match reply.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => KEY,
            _ => help,
        };
        self.error(format!("{request} was answered with {}: {text}", reply.status), help)
    }

    fn json(&self, request: &str, reply: &Reply, help: &str) -> Result<Value> {
        if !reply.status.is_success() {
            return Err(self.refused(request, reply, help));
        }
        serde_json::from_str(&reply.text)
            .map_err(|_| self.error(format!("{request} was answered with no JSON"), LOG))
    }

    /// An answer, whatever it is. What becomes of a POST that has none is not known.
    fn reply(
        &self,
        method: &str,
        path: &str,
        got: std::result::Result<ureq::http::Response<Body>, ureq::Error>,
    ) -> Result<Reply> {
        let failed = |e: ureq::Error| {
            let what = format!("{method} {path}: {e}");
            match e {
                ureq::Error::Io(e) if e.kind() == ErrorKind::ConnectionRefused => {
                    self.error_in(what, NOBODY, START)
                }
                ureq::Error::HostNotFound => self.error_in(what, NOBODY, START),
                _ if method == "POST" => self.error_in(what, UNKNOWN, LOG),
                _ => self.error_in(what, UNTOUCHED, LOG),
            }
        };
        let mut response = got.map_err(failed)?;
        let status = response.status();
        let read = response.body_mut().with_config().limit(MAX_BYTES).read_to_vec();
        let text = String::from_utf8_lossy(&read.map_err(failed)?).into_owned();
        Ok(Reply { status, text })
    }
}

/// The remedy where nothing better is known.
pub const LOG: &str = "look into the server's log";

const KEY: &str = "give the key that it asks for, in a header";
const START: &str = "start the server, or mend its address";
const NOBODY: &str = "nothing answers there";
const UNTOUCHED: &str = "it serves what it served before";
const UNKNOWN: &str = "whether it did that is not known";

/// The same error with what is known of the server now, and what helps.
pub fn state(e: Error, state: &str, help: &str) -> Error {
    match in_state(e, state) {
        Error::Server { url, what, state, .. } => {
            Error::Server { url, what, state, remedy: Box::new(help.into()) }
        }
        e => e,
    }
}

/// The same error with what is known of the server now.
pub fn in_state(e: Error, state: &str) -> Error {
    match e {
        Error::Server { url, what, remedy, .. } => {
            Error::Server { url, what, state: state.into(), remedy }
        }
        e => e,
    }
}
