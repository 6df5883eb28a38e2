//! Lines for standard error and standard output that no reader can hold up.
//!
//! A pipe that nobody reads is full after 64 KiB, and whoever writes to it then stands still: a worker with all its
//! clients, or a drain. So one thread for each of the two does nothing but write, and everybody else leaves lines
//! in its buffer. What finds no room there is dropped and counted, and said once the reader takes again.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Lines that wait for a reader, in bytes; while the thread writes, as many again.
const MAX_WAITING_BYTES: usize = 1 << 20;
/// Memory that the buffers keep when nothing waits.
const KEPT_BYTES: usize = 64 << 10;
/// How long the last lines may take when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Until a reader that made the pipe non-blocking is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// Standard error: logs, and a process's last words.
pub static STDERR: Output = Output::new("stderr", || {
    Ok(io::stderr().as_fd().try_clone_to_owned()?.into())
});
/// Standard output: what `dev` says to whoever started it.
pub static STDOUT: Output = Output::new("stdout", || {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
});

/// One of the two.
#[derive(Debug)]
pub struct Output {
    name: &'static str,
    /// Opens the file anew: the lock of `io::stderr()` must not be held by a thread that stands still.
    open: fn() -> io::Result<File>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: Vec<u8>,
    is_started: bool,
    is_writing: bool,
    dropped: u64,
    /// How many of them were said to be.
    told: u64,
}

impl Output {
    const fn new(name: &'static str, open: fn() -> io::Result<File>) -> Self {
        Self {
            name,
            open,
            state: Mutex::new(State {
                waiting: Vec::new(),
                is_started: false,
                is_writing: false,
                dropped: 0,
                told: 0,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves one or several whole lines to be written. Never waits.
    pub fn write(&'static self, lines: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len() + lines.len() > MAX_WAITING_BYTES || !self.start(&mut state) {
            state.dropped += count(lines);
            return;
        }
        state.waiting.extend_from_slice(lines);
        drop(state);
        self.changed.notify_all();
    }

    /// Lines that were dropped: they found no room, or could not be written.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Waits until everything is written, a second at most.
    fn flush(&self) {
        let state = self.lock();
        let _ = self
            .changed
            .wait_timeout_while(state, FLUSH_TIMEOUT, |state| {
                state.is_writing || !state.waiting.is_empty()
            });
    }

    /// Starts the thread with the first line; `false` when it cannot be made, and is tried with the next.
    fn start(&'static self, state: &mut State) -> bool {
        if state.is_started {
            return true;
        }
        let Ok(file) = (self.open)() else {
            return false;
        };
        let thread = thread::Builder::new().name(self.name.to_owned());
        state.is_started = thread.spawn(move || self.work(file)).is_ok();
        state.is_started
    }

    fn work(&self, mut file: File) {
        let mut lines = Vec::new();
        let mut is_torn = false;
        loop {
            let state = self.lock();
            let mut state = self
                .changed
                .wait_while(state, |state| state.waiting.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut lines, &mut state.waiting);
            state.is_writing = true;
            drop(state);
            let lost = put(&mut file, &lines, &mut is_torn);
            lines.clear();
            lines.shrink_to(KEPT_BYTES);
            self.wrote(lost);
        }
    }

    /// Counts what was lost, or says what was before, if there is room for it.
    fn wrote(&self, lost: u64) {
        let mut state = self.lock();
        state.dropped += lost;
        let untold = state.dropped - state.told;
        let tells = lost == 0 && untold > 0 && state.waiting.len() < MAX_WAITING_BYTES / 2;
        if tells {
            state.told = state.dropped;
        }
        drop(state);
        if tells {
            // Into this very buffer, in the form of all log lines.
            tracing::warn!(
                lines = untold,
                output = self.name,
                "log lines dropped: nobody read them"
            );
        }
        let mut state = self.lock();
        state.is_writing = false;
        drop(state);
        self.changed.notify_all();
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// Writes lines, the first at the beginning of one, and returns how many were lost; `is_torn` says whether a line was begun
/// and not ended, before and after.
fn put(file: &mut impl Write, lines: &[u8], is_torn: &mut bool) -> u64 {
    if *is_torn && write_all(file, b"\n") < 1 {
        return count(lines);
    }
    let written = write_all(file, lines);
    let (done, lost) = lines.split_at(written);
    *is_torn = !lost.is_empty() && done.last().is_some_and(|last| *last != b'\n');
    count(lost)
}

/// Writes what can be written, and returns how many bytes that was.
fn write_all(file: &mut impl Write, lines: &[u8]) -> usize {
    let mut written = 0;
    while written < lines.len() {
        match file.write(&lines[written..]) {
            Ok(0) => break,
            Ok(bytes) => written += bytes,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
            Err(_) => break,
        }
    }
    written
}

/// Where log lines go, each written as a whole.
#[derive(Debug, Clone, Copy)]
pub struct LogLine;

impl Write for LogLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        STDERR.write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says on standard error why the process ends.
pub fn say_error(why: &str) {
    STDERR.write(format!("error: {why}\n").as_bytes());
}

/// Waits until the last lines are written, but not for a reader that stands still.
pub fn flush() {
    STDOUT.flush();
    STDERR.flush();
}

/// Ends the process, its last lines written.
pub fn exit(code: i32) -> ! {
    flush();
    std::process::exit(code)
}

/// Panics say what they have to say here, too: by themselves they would wait for the reader.
pub fn take_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("<unnamed>");
        let mut text = format!("\nthread '{name}' {panic}\n");
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            text.push_str(&format!("{trace}\n"));
        }
        STDERR.write(text.as_bytes());
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with so much room.
    struct Disk {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.taken.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_torn_line_stays_by_itself() {
        for (rooms, expected, lost) in [
            ([9, 9, 9], "one\ntwo\nsix\nend\n", 0),
            ([4, 0, 9], "one\nend\n", 2),
            ([6, 0, 9], "one\ntw\nend\n", 2),
            ([6, 1, 9], "one\ntw\nend\n", 2),
            ([6, 3, 9], "one\ntw\nsi\nend\n", 2),
        ] {
            let (room, taken) = (0, Vec::new());
            let (mut disk, mut is_torn, mut count) = (Disk { room, taken }, false, 0);
            for (room, lines) in rooms.into_iter().zip(["one\ntwo\n", "six\n", "end\n"]) {
                disk.room = room;
                count += put(&mut disk, lines.as_bytes(), &mut is_torn);
            }
            let taken = String::from_utf8_lossy(&disk.taken);
            assert_eq!((&*taken, count), (expected, lost), "{rooms:?}");
        }
    }
}
