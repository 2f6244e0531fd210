//! A headless browser on a host of the laboratory: opens a page and looks at it, by the browser's own debugging protocol
//! (Chrome DevTools Protocol, WebDriver BiDi) over a WebSocket.

use std::{net::TcpStream, time::Duration};

use natlab::{LabError, host::Host, process::Running};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

/// A browser that Debian has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Browser {
    Chromium,
    Firefox,
}

/// What the page said in the end.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    /// `done` or `failed`.
    pub(crate) state: String,
    /// The line for the reader.
    pub(crate) status: String,
    /// The report; null where there is none.
    pub(crate) report: Value,
    /// What the browser complained about.
    pub(crate) console: Vec<String>,
}

/// How long a browser may take to start, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end.
const END: Duration = Duration::from_secs(10);
/// How long a measurement may take, loading included.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the page.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

impl Browser {
    pub(crate) const ALL: [Self; 2] = [Self::Chromium, Self::Firefox];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Chromium => "chromium",
            Self::Firefox => "firefox",
        }
    }

    /// Opens a page on a host and waits until it says that it is through.
    pub(crate) fn visit(self, host: &Host, url: &str) -> Result<Visit, LabError> {
        self.open(host, url)?.finish()
    }

    /// Opens a page on a host.
    pub(crate) fn open(self, host: &Host, url: &str) -> Result<Window, LabError> {
        let home = tempfile::tempdir().map_err(LabError::io("making a folder"))?;
        let profile = home.path().to_string_lossy().into_owned();
        let command = match self {
            Self::Chromium => host
                .command("chromium")
                .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"])
                .arg(format!("--user-data-dir={profile}"))
                .arg("about:blank"),
            Self::Firefox => host.command("firefox-esr").args([
                "--headless",
                "--profile",
                &profile,
                "--remote-debugging-port",
                "0",
            ]),
        };
        let mut running = command.env("HOME", &profile).start()?;
        let line = running.error_line(START, |line| line.contains(" listening on ws://"))?;
        let at = line.split("ws://").nth(1).unwrap_or_default().trim().to_owned();
        let mut session = Session::open(self, host, &at)?;
        session.navigate(url)?;
        Ok(Window { session, running, _home: home })
    }
}

/// A browser with a page open. Its files go when it does.
pub(crate) struct Window {
    session: Session,
    running: Running,
    _home: tempfile::TempDir,
}

impl Window {
    /// Waits until the page has this attribute on its root.
    pub(crate) fn attribute(&mut self, name: &str) -> Result<String, LabError> {
        self.session
            .wait_for(&format!("document.documentElement.dataset.{name} || ''"), |text| !text.is_empty())
    }

    /// Waits until this expression gives this text.
    pub(crate) fn wait_for(&mut self, expression: &str, wanted: &str) -> Result<(), LabError> {
        self.session.wait_for(expression, |text| text == wanted).map(drop)
    }

    /// The text that this expression gives, at once or in the end.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Result<String, LabError> {
        self.session.evaluate(expression)
    }

    /// Shows the page dark or light; only Chromium can be told.
    pub(crate) fn prefer(&mut self, scheme: &str) -> Result<(), LabError> {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.session.call("Emulation.setEmulatedMedia", json!({ "features": features })).map(drop)
    }

    /// Ends the browser; what it complained about.
    pub(crate) fn close(self) -> Result<Vec<String>, LabError> {
        self.running.signal(Signal::TERM)?;
        self.running.finish(END)?;
        Ok(self.session.console)
    }

    /// Waits until the page says that it is through, and ends the browser, which takes its children with it.
    pub(crate) fn finish(mut self) -> Result<Visit, LabError> {
        let visit = self.session.visit();
        self.running.signal(Signal::TERM)?;
        self.running.finish(END)?;
        visit
    }
}

/// A conversation with a browser about one page.
struct Session {
    browser: Browser,
    socket: WebSocket<TcpStream>,
    number: u64,
    /// The page: a session of the one protocol, a context of the other.
    page: String,
    console: Vec<String>,
}

impl Session {
    /// Connects to `127.0.0.1:PORT/PATH` on the host.
    fn open(browser: Browser, host: &Host, at: &str) -> Result<Self, LabError> {
        let (address, path) = at.split_once('/').unwrap_or((at, "session"));
        let target = address.to_owned();
        let stream =
            host.run(move || TcpStream::connect(target)).map_err(LabError::io("reaching the browser"))?;
        stream.set_read_timeout(Some(START)).map_err(LabError::io("setting a timeout"))?;
        let socket = client(format!("ws://{address}/{path}"), stream).map_err(|e| told(&e))?.0;
        let mut session = Self { browser, socket, number: 0, page: String::new(), console: Vec::new() };
        match browser {
            Browser::Chromium => {
                let target = session.call("Target.createTarget", json!({ "url": "about:blank" }))?;
                let attach = json!({ "targetId": target["targetId"], "flatten": true });
                session.page = text(&session.call("Target.attachToTarget", attach)?["sessionId"]);
                session.call("Runtime.enable", json!({}))?;
                session.call("Log.enable", json!({}))?;
            }
            Browser::Firefox => {
                session.call("session.new", json!({ "capabilities": {} }))?;
                session.call("session.subscribe", json!({ "events": ["log.entryAdded"] }))?;
                let tree = session.call("browsingContext.getTree", json!({}))?;
                session.page = text(&tree["contexts"][0]["context"]);
            }
        }
        Ok(session)
    }

    fn navigate(&mut self, url: &str) -> Result<(), LabError> {
        match self.browser {
            Browser::Chromium => self.call("Page.navigate", json!({ "url": url }))?,
            Browser::Firefox => {
                let page = self.page.clone();
                self.call(
                    "browsingContext.navigate",
                    json!({ "context": page, "url": url, "wait": "complete" }),
                )?
            }
        };
        Ok(())
    }

    /// What the page says when it is through.
    fn visit(&mut self) -> Result<Visit, LabError> {
        let state = "document.documentElement.dataset.state || ''";
        let state = self.wait_for(state, |state| ["done", "failed"].contains(&state))?;
        let status = self.evaluate("document.getElementById('status').textContent")?;
        let report = self.evaluate("(document.getElementById('report') || {}).textContent || 'null'")?;
        let report = serde_json::from_str(&report).unwrap_or(Value::Null);
        Ok(Visit { state, status, report, console: std::mem::take(&mut self.console) })
    }

    /// The value of an expression as soon as it is one of those.
    fn wait_for(&mut self, expression: &str, is_wanted: impl Fn(&str) -> bool) -> Result<String, LabError> {
        let mut left = PATIENCE;
        loop {
            let value = self.evaluate(expression)?;
            if is_wanted(&value) {
                return Ok(value);
            }
            left = left.checked_sub(LOOK_INTERVAL).ok_or_else(|| LabError::Timeout {
                operation: format!("waiting for the page in {}", self.browser.name()),
                within: PATIENCE,
                printed: format!("{expression}: {value:?}; {:?}", self.console),
            })?;
            // The page tells by an attribute: there is nothing to wait for that both protocols have.
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// The value of an expression, which is text.
    fn evaluate(&mut self, expression: &str) -> Result<String, LabError> {
        let page = self.page.clone();
        let result = match self.browser {
            Browser::Chromium => {
                self.call("Runtime.evaluate", json!({ "expression": expression, "awaitPromise": true }))?
            }
            Browser::Firefox => {
                let target = json!({ "context": page });
                let parameters = json!({ "expression": expression, "target": target, "awaitPromise": true });
                self.call("script.evaluate", parameters)?
            }
        };
        Ok(text(&result["result"]["value"]))
    }

    /// Calls a method and waits for what it gives; what the browser says meanwhile is looked through for complaints.
    fn call(&mut self, method: &str, parameters: Value) -> Result<Value, LabError> {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": parameters });
        if self.browser == Browser::Chromium && !self.page.is_empty() {
            message["sessionId"] = json!(self.page);
        }
        self.socket.send(Message::text(message.to_string())).map_err(|e| told(&e))?;
        loop {
            let answer = self.socket.read().map_err(|e| told(&e))?;
            let Ok(answer) = answer.to_text().map(|text| serde_json::from_str(text).unwrap_or(Value::Null))
            else {
                continue;
            };
            if answer["id"] == self.number {
                return Ok(answer["result"].clone());
            }
            if ["Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "log.entryAdded"]
                .contains(&text(&answer["method"]).as_str())
            {
                self.console.push(answer["params"].to_string());
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn told(error: &dyn std::error::Error) -> LabError {
    LabError::Setup { operation: "talking to the browser".into(), message: error.to_string() }
}
