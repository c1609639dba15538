//! Stream capture and graphs.
//!
//! While a stream captures, work queued in it becomes a node instead of running. A node comes after the last nodes of its
//! stream; waiting for an event that was recorded in the capture draws further streams into it and adds edges.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::ThreadId;

use crate::driver::{Handle, State};
use crate::queue::Work;
use crate::status::{CUresult, Failure, Result};

#[derive(Clone)]
struct Node {
    work: Work,
    after: Vec<usize>,
}

/// A finished graph, as captured or made executable. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct Graph {
    nodes: Arc<Vec<Node>>,
}

impl Graph {
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn work(&self, node: usize) -> &Work {
        &self.nodes[node].work
    }

    /// An order that keeps the edges: as captured, or by a seed any of those that they allow.
    pub fn order(&self, seed: Option<u64>) -> Vec<usize> {
        let Some(mut seed) = seed else { return (0..self.nodes.len()).collect() };
        let mut done = vec![false; self.nodes.len()];
        let mut order = Vec::with_capacity(self.nodes.len());
        while order.len() < self.nodes.len() {
            let ready: Vec<usize> = (0..self.nodes.len())
                .filter(|n| !done[*n] && self.nodes[*n].after.iter().all(|b| done[*b]))
                .collect();
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let chosen = ready[(seed >> 33) as usize % ready.len()];
            done[chosen] = true;
            order.push(chosen);
        }
        order
    }
}

/// How strictly calls that are unsafe in a capture are refused, by `CUstreamCaptureMode`'s numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In all threads.
    Global,
    /// In the thread that captures.
    ThreadLocal,
    Relaxed,
}

/// A capture under way.
pub(crate) struct Capture {
    origin: Handle,
    context: Handle,
    mode: Mode,
    thread: ThreadId,
    nodes: Vec<Node>,
    /// Per stream that takes part: the nodes that its next one comes after.
    ends: HashMap<Handle, Vec<usize>>,
    /// Per event recorded in it: the nodes that it stands for.
    events: HashMap<Handle, Vec<usize>>,
    invalid: bool,
}

impl State {
    /// Starts a capture in a stream.
    pub fn begin_capture(&mut self, stream: Handle, mode: u32) -> Result {
        let mode = match mode {
            0 => Mode::Global,
            1 => Mode::ThreadLocal,
            2 => Mode::Relaxed,
            _ => return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, format!("capture mode {mode}"))),
        };
        let context = self.streams[&stream].context;
        if stream == self.contexts[&context].default_stream {
            let words = "the default stream cannot be captured";
            return Err(Failure::new(CUresult::ERROR_STREAM_CAPTURE_UNSUPPORTED, words));
        }
        if self.streams[&stream].capture.is_some() {
            return Err(Failure::new(CUresult::ERROR_ILLEGAL_STATE, "the stream captures already"));
        }
        let handle = self.new_handle();
        let capture = Capture {
            origin: stream,
            context,
            mode,
            thread: std::thread::current().id(),
            nodes: Vec::new(),
            ends: HashMap::from([(stream, Vec::new())]),
            events: HashMap::new(),
            invalid: false,
        };
        self.captures.insert(handle, capture);
        self.join(stream, Some(handle));
        Ok(())
    }

    fn join(&mut self, stream: Handle, capture: Option<Handle>) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.capture = capture;
        }
    }

    /// Adds work to the capture that its stream takes part in.
    pub fn capture_work(&mut self, capture: Handle, stream: Handle, work: Work) {
        let Some(capture) = self.captures.get_mut(&capture) else { return };
        let node = capture.nodes.len();
        let after = capture.ends.insert(stream, vec![node]).unwrap_or_default();
        capture.nodes.push(Node { work, after });
    }

    /// Records an event in a capture.
    pub fn capture_event(&mut self, handle: Handle, stream: Handle, event: Handle) {
        let Some(capture) = self.captures.get_mut(&handle) else { return };
        let ends = capture.ends.get(&stream).cloned().unwrap_or_default();
        capture.events.insert(event, ends);
        if let Some(event) = self.events.get_mut(&event) {
            event.captured = Some(handle);
            event.recorded = None;
        }
    }

    /// A stream waits for an event, and one of the two is in a capture.
    pub fn capture_wait(&mut self, stream: Handle, event: Handle) -> Result {
        let own = self.streams[&stream].capture;
        let theirs = self.events.get(&event).and_then(|e| e.captured);
        match (own, theirs) {
            (Some(own), None) => {
                self.invalidate(own);
                let words = "a capturing stream waits for work outside of the capture";
                Err(Failure::new(CUresult::ERROR_STREAM_CAPTURE_ISOLATION, words))
            }
            (Some(own), Some(theirs)) if own != theirs => {
                self.invalidate(own);
                self.invalidate(theirs);
                Err(CUresult::ERROR_STREAM_CAPTURE_MERGE.into())
            }
            (_, Some(theirs)) => {
                let Some(capture) = self.captures.get_mut(&theirs) else {
                    let words = "the event was recorded in a capture that has ended";
                    return Err(Failure::new(CUresult::ERROR_CAPTURED_EVENT, words));
                };
                let before = capture.events.get(&event).cloned().unwrap_or_default();
                let ends = capture.ends.entry(stream).or_default();
                ends.extend(before);
                ends.sort_unstable();
                ends.dedup();
                self.join(stream, Some(theirs));
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    /// Ends a capture; the graph's handle.
    pub fn end_capture(&mut self, stream: Handle) -> Result<Handle> {
        let Some(handle) = self.streams[&stream].capture else {
            return Err(Failure::new(CUresult::ERROR_ILLEGAL_STATE, "the stream does not capture"));
        };
        let Some(capture) = self.captures.get(&handle) else { return Err(CUresult::ERROR_UNKNOWN.into()) };
        if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
            return Err(CUresult::ERROR_STREAM_CAPTURE_WRONG_THREAD.into());
        }
        if capture.origin != stream {
            self.invalidate(handle);
            return Err(CUresult::ERROR_STREAM_CAPTURE_UNMATCHED.into());
        }
        let Some(capture) = self.captures.remove(&handle) else { return Err(CUresult::ERROR_UNKNOWN.into()) };
        for stream in capture.ends.keys() {
            self.join(*stream, None);
        }
        if capture.invalid {
            return Err(CUresult::ERROR_STREAM_CAPTURE_INVALIDATED.into());
        }
        if let Some(stray) = capture.unjoined() {
            let words = format!("stream {stray:#x} was drawn into the capture and not joined to its origin");
            return Err(Failure::new(CUresult::ERROR_STREAM_CAPTURE_UNJOINED, words));
        }
        let graph = self.new_handle();
        self.graphs.insert(graph, Graph { nodes: Arc::new(capture.nodes) });
        Ok(graph)
    }

    /// Drops the captures under way in a context that goes.
    pub fn forget_captures(&mut self, context: Handle) {
        self.captures.retain(|_, c| c.context != context);
    }

    /// Marks a capture as failed.
    pub fn invalidate(&mut self, capture: Handle) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid = true;
        }
    }

    /// Whether a stream captures, by `CUstreamCaptureStatus`'s numbers.
    pub fn capture_status(&self, stream: Handle) -> u32 {
        match self.streams[&stream].capture.and_then(|c| self.captures.get(&c)) {
            None => 0,
            Some(capture) if capture.invalid => 2,
            Some(_) => 1,
        }
    }

    /// Refuses to wait for a stream that captures.
    pub fn refuse_in_capture(&mut self, stream: Handle) -> Result {
        let Some(capture) = self.streams[&stream].capture else { return Ok(()) };
        self.invalidate(capture);
        let words = "a capturing stream cannot be waited for";
        Err(Failure::new(CUresult::ERROR_STREAM_CAPTURE_UNSUPPORTED, words))
    }

    /// Refuses calls that would wait for all of a context, or change what a capture relies on, while something captures.
    pub fn refuse_while_capturing(&mut self, context: Handle, what: &str) -> Result {
        let thread = std::thread::current().id();
        let hit = self.captures.iter_mut().find(|c| {
            c.1.context == context
                && (c.1.mode == Mode::Global || c.1.mode == Mode::ThreadLocal && c.1.thread == thread)
        });
        let Some((_, capture)) = hit else { return Ok(()) };
        capture.invalid = true;
        let words = format!("{what} while a stream captures");
        Err(Failure::new(CUresult::ERROR_STREAM_CAPTURE_UNSUPPORTED, words))
    }

    /// Refuses work in the default stream while a stream captures that it would have to wait for.
    pub fn no_capture_beside(&mut self, context: Handle) -> Result {
        let beside = |s: &&crate::driver::Stream| s.context == context && s.blocking && s.capture.is_some();
        let Some(capture) = self.streams.values().find(beside).and_then(|s| s.capture) else { return Ok(()) };
        self.invalidate(capture);
        Err(CUresult::ERROR_STREAM_CAPTURE_IMPLICIT.into())
    }
}

impl Capture {
    /// A stream whose work nothing of the origin's comes after.
    fn unjoined(&self) -> Option<Handle> {
        let mut reached = vec![false; self.nodes.len()];
        let mut open = self.ends.get(&self.origin).cloned().unwrap_or_default();
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut reached[node], true) {
                open.extend(&self.nodes[node].after);
            }
        }
        self.ends.iter().find(|(_, ends)| ends.iter().any(|n| !reached[*n])).map(|(stream, _)| *stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_keeps_the_edges() {
        let node = |after: &[usize]| Node { work: Work::Nothing, after: after.to_vec() };
        let graph = Graph {
            nodes: Arc::new(vec![node(&[]), node(&[0]), node(&[0]), node(&[0]), node(&[1, 3]), node(&[])]),
        };
        let mut seen = std::collections::HashSet::new();
        for seed in 0..40 {
            let order = graph.order(Some(seed));
            let place = |n: usize| order.iter().position(|o| *o == n).unwrap();
            for (n, node) in graph.nodes.iter().enumerate() {
                assert!(node.after.iter().all(|b| place(*b) < place(n)), "{order:?}");
            }
            seen.insert(order);
        }
        assert!(seen.len() > 5);
        assert_eq!(graph.order(None), [0, 1, 2, 3, 4, 5]);
    }
}
