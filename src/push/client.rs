//! Requests to a server, and what it answers.

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
        if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
            let what = format!("{url}: is no URL of a server");
            return Err(Error::refused(what, "write it as http://127.0.0.1:8000"));
        }
        let header = |text: &String| {
            let wrong = || Error::refused("a header is not of the form Name: value", "mend it");
            let (name, value) = text.split_once(':').ok_or_else(wrong)?;
            let name = name.trim().parse().map_err(|_| wrong())?;
            Ok((name, value.trim().parse().map_err(|_| wrong())?))
        };
        let headers = headers.iter().map(header).collect::<Result<_>>()?;
        let config = Agent::config_builder().timeout_global(Some(timeout));
        let agent = config.http_status_as_error(false).build().new_agent();
        Ok(Client { url: url.trim_end_matches('/').to_owned(), headers, agent })
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
    /// As [`get`](Client::get); a status that says no; an answer that is no JSON.
    pub fn read(&self, path: &str) -> Result<Value> {
        let reply = self.get(path)?;
        self.json(&format!("GET {path}"), reply)
    }

    /// The JSON that a POST is answered with; null where the answer is some other text.
    ///
    /// # Errors
    ///
    /// As [`get`](Client::get); a status that says no.
    pub fn tell(&self, path: &str, body: Option<&Value>) -> Result<Value> {
        let reply = self.post(path, body)?;
        match reply.status.is_success() {
            true => Ok(serde_json::from_str(&reply.text).unwrap_or_default()),
            false => Err(self.refused(&format!("POST {path}"), &reply)),
        }
    }

    /// The JSON that a POST has to be answered with.
    ///
    /// # Errors
    ///
    /// As [`read`](Client::read).
    pub fn ask(&self, path: &str, body: &Value) -> Result<Value> {
        let reply = self.post(path, Some(body))?;
        self.json(&format!("POST {path}"), reply)
    }

    /// An error that says what the server answered.
    pub fn refused(&self, request: &str, reply: &Reply) -> Error {
        let mut text: String = reply.text.chars().take(SHOWN).collect();
        if text.len() < reply.text.len() {
            text.push('…');
        }
        self.error(format!("{request} was answered with {}: {text}", reply.status))
    }

    /// An error about the server, which is as it was.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::Server {
            url: self.url.clone(),
            what: what.into(),
            state: UNTOUCHED.into(),
            remedy: Box::new(Remedy::from("look into the server's log")),
        }
    }

    fn json(&self, request: &str, reply: Reply) -> Result<Value> {
        if !reply.status.is_success() {
            return Err(self.refused(request, &reply));
        }
        serde_json::from_str(&reply.text)
            .map_err(|_| self.error(format!("{request} was answered with no JSON")))
    }

    fn reply(
        &self,
        method: &str,
        path: &str,
        got: std::result::Result<ureq::http::Response<Body>, ureq::Error>,
    ) -> Result<Reply> {
        let failed = |e: ureq::Error| self.error(format!("{method} {path}: {e}"));
        let mut response = got.map_err(failed)?;
        let status = response.status();
        let read = response.body_mut().with_config().limit(MAX_BYTES).read_to_vec();
        let text = String::from_utf8_lossy(&read.map_err(failed)?).into_owned();
        Ok(Reply { status, text })
    }
}

const UNTOUCHED: &str = "it serves what it served before";

/// The same error with what is known of the server now, and what helps.
pub fn state(e: Error, state: &str, help: &str) -> Error {
    match e {
        Error::Server { url, what, .. } => {
            Error::Server { url, what, state: state.into(), remedy: Box::new(help.into()) }
        }
        e => e,
    }
}
