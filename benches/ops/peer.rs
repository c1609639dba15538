//! The peer: `benches/peer.py` as a child process, asked over its standard input and output, a line of JSON
//! each way. It takes one shape at a time (`prepare`) and times it as often as asked (`run`), or by a GPU's own clock
//! (`measure`). `SEEDWALK_PEER_SCRIPT` names the script where the repository is not at hand.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A running peer.
pub struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What it calls itself: packages and versions.
    pub name: String,
}

impl Peer {
    /// Starts the interpreter that `SEEDWALK_PYTHON` names, else `python3`; says why where there is no peer.
    pub fn start() -> Option<Self> {
        let python = std::env::var("SEEDWALK_PYTHON").unwrap_or_else(|_| "python3".into());
        match Self::try_start(&python) {
            Ok(peer) => {
                println!("peer: {}", peer.name);
                Some(peer)
            }
            Err(cause) => {
                println!("no peer: {python}: {cause}. SEEDWALK_PYTHON names an interpreter with torch.");
                None
            }
        }
    }

    fn try_start(python: &str) -> Result<Self, String> {
        let script = match std::env::var_os("SEEDWALK_PEER_SCRIPT") {
            Some(named) => PathBuf::from(named),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peer.py"),
        };
        if !script.is_file() {
            return Err("its script benches/peer.py is not there; SEEDWALK_PEER_SCRIPT names it".into());
        }
        let mut child = Command::new(python)
            .arg(script)
            .arg(rayon::current_num_threads().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes to the child".into());
        };
        let mut peer = Self { child, requests, answers: BufReader::new(answers), name: String::new() };
        let hello = peer.answer()?;
        peer.name = hello["peer"].as_str().ok_or("it has neither torch nor pydensecrf")?.into();
        Ok(peer)
    }

    fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        let value: Value = serde_json::from_str(&line).map_err(|_| "it ended without an answer")?;
        match value["error"].as_str() {
            Some(error) => Err(error.into()),
            None => Ok(value),
        }
    }

    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.requests, "{request}").map_err(|error| error.to_string())?;
        self.answer()
    }

    /// Makes the inputs of a request; whether the peer can do it.
    pub fn prepare(&mut self, request: &Value) -> bool {
        match self.ask(&json!({ "prepare": request })) {
            Ok(_) => true,
            Err(cause) => {
                println!("peer, {request}: {cause}");
                false
            }
        }
    }

    /// Seconds of one execution, averaged over `count` of them.
    pub fn run(&mut self, count: u64) -> Option<f64> {
        self.ask(&json!({ "run": count })).ok()?["seconds"].as_f64()
    }

    /// Times a request on a GPU for about `seconds`, by events.
    ///
    /// # Errors
    /// In the peer's words: it cannot do this, or not on this GPU.
    pub fn measure(&mut self, request: &Value, seconds: f64) -> Result<PeerTime, String> {
        self.ask(&json!({ "prepare": request }))?;
        let answer = self.ask(&json!({ "measure": seconds }))?;
        let number = |key: &str| answer[key].as_f64().ok_or_else(|| format!("it answered {answer}"));
        Ok(PeerTime { seconds: number("seconds")?, cold: number("cold")? })
    }
}

/// What the peer took on a GPU, in seconds of one execution.
#[derive(Debug, Clone, Copy)]
pub struct PeerTime {
    /// Median, warm.
    pub seconds: f64,
    /// Median with the second-level cache overwritten before each execution.
    pub cold: f64,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // An empty line ends it; one that hangs is killed so that the run can end.
        let asked = writeln!(self.requests).is_ok();
        if !asked {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
