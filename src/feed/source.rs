//! Where rows come from. Each source reads on a thread of its own and hands rows over in chunks.

mod follow;
mod standing;

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Config;
use super::row::{Format, Row, Values};
use crate::bus::{Bus, Doubt, RedisBus, Sink};
use crate::clock::now_ms;
use crate::metrics::FeedMetrics;
use standing::Standing;

/// Rows of one chunk: handing over costs little for each.
const CHUNK_ROWS: usize = 512;
/// Chunks that wait between a source and what takes them: beyond it the source waits.
const QUEUED_CHUNKS: usize = 16;
/// Longest line of JSON, in bytes; longer ones are left out. A trade has some 100.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// What one read of a CSV file asks for, in bytes: some thousand rows, so that chunks fill.
const CSV_BUFFER_BYTES: usize = 64 * 1024;
/// A chunk that is not full is handed over after this long, so that a slow feed is not held up.
const CHUNK_WAIT: Duration = Duration::from_millis(20);

/// Where rows come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Files one after the other; `-` is standard input.
    Files(Vec<PathBuf>),
    /// A Redis channel, or a pattern of channels.
    Channel(RedisBus, String),
    /// A Redis stream, from this id on: `$` is what comes from now on, `0` all of it.
    Stream(RedisBus, String, String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(files) => {
                let names: Vec<_> = files
                    .iter()
                    .map(|file| file.display().to_string())
                    .collect();
                f.write_str(&names.join(" "))
            }
            Self::Channel(_, channel) => write!(f, "channel {channel}"),
            Self::Stream(_, key, from) => write!(f, "stream {key} from {from}"),
        }
    }
}

/// What a source hands over.
pub(super) enum Chunk {
    Rows {
        rows: Vec<Row>,
        /// All that had arrived by this time (ms) was read once these rows are; none when the source
        /// cannot tell.
        mark: Option<i64>,
        /// More has arrived and waits to be read, however empty the queue is.
        behind: bool,
    },
    /// It cannot be read on.
    Failed(String),
}

/// Nobody takes rows any more.
struct Gone;

/// Starts to read. The queue ends with the source.
///
/// # Errors
/// One line: a file cannot be opened, or a thread cannot be made.
pub(super) fn open(
    config: &Config,
    metrics: &FeedMetrics,
    stop: &CancellationToken,
) -> Result<Receiver<Chunk>, String> {
    let (sender, receiver) = sync_channel(QUEUED_CHUNKS);
    let out = Out {
        stop: stop.clone(),
        sender,
        rows: Vec::with_capacity(CHUNK_ROWS),
        began: Instant::now(),
        mark: None,
        read_at: None,
        behind: false,
    };
    let (config, stop) = (config.clone(), stop.clone());
    let (health, missed) = (metrics.publishing.health.clone(), metrics.missed.clone());
    let work: Box<dyn FnOnce() + Send> = match config.source.clone() {
        Source::Files(files) => {
            let opened = files
                .into_iter()
                .map(|file| Text::open(file, config.format));
            let opened: Vec<Text> = opened.collect::<Result<_, _>>()?;
            Box::new(move || read_all(opened, &config, out))
        }
        Source::Channel(bus, channel) => {
            let standing = Standing::new(format!("channel {channel}"), health);
            let stop = stop.child_token();
            Box::new(move || {
                run(out, &stop.clone(), |out| {
                    let listener = Listener {
                        config,
                        standing,
                        out,
                        stop: stop.clone(),
                    };
                    bus.listening_to(&channel).subscribe(listener, stop)
                });
            })
        }
        Source::Stream(bus, key, from) => {
            let standing = Standing::new(format!("stream {key}"), health);
            Box::new(move || {
                run(out, &stop, |out| {
                    follow::follow(bus.stream(key, &from), config, standing, missed, out)
                });
            })
        }
    };
    thread::Builder::new()
        .name("feed".to_owned())
        .spawn(work)
        .map_err(|why| format!("cannot start a thread: {why}"))?;
    Ok(receiver)
}

/// Gathers rows into chunks.
struct Out {
    stop: CancellationToken,
    sender: SyncSender<Chunk>,
    rows: Vec<Row>,
    began: Instant,
    /// Of the next chunk that is not full: with it all is handed over that was read together.
    mark: Option<i64>,
    /// Of the next full chunk, from a source that may never be drained.
    read_at: Option<i64>,
    behind: bool,
}

impl Out {
    fn add(&mut self, row: Row) -> Result<(), Gone> {
        if self.rows.is_empty() {
            self.began = Instant::now();
        }
        self.rows.push(row);
        if self.rows.len() >= CHUNK_ROWS || self.began.elapsed() >= CHUNK_WAIT {
            let mark = self.read_at.take();
            return self.send(mark);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Gone> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mark = self.mark.take();
        self.send(mark)
    }

    fn send(&mut self, mark: Option<i64>) -> Result<(), Gone> {
        let rows = std::mem::replace(&mut self.rows, Vec::with_capacity(CHUNK_ROWS));
        let behind = self.behind;
        let chunk = Chunk::Rows { rows, mark, behind };
        self.sender.send(chunk).map_err(|_| Gone)
    }

    /// Says whether more waits to be read: also when no row tells it.
    fn set_behind(&mut self, behind: bool) -> Result<(), Gone> {
        if std::mem::replace(&mut self.behind, behind) == behind || !self.rows.is_empty() {
            return Ok(());
        }
        let mark = self.mark.take();
        self.send(mark)
    }

    fn fail(&mut self, why: String) {
        let _ = self.flush();
        let _ = self.sender.send(Chunk::Failed(why));
    }
}

/// An opened file, or standard input.
struct Text {
    name: String,
    format: Format,
    reader: Box<dyn Read + Send>,
}

impl Text {
    fn open(path: PathBuf, format: Option<Format>) -> Result<Self, String> {
        let is_csv = path
            .extension()
            .is_some_and(|end| end.eq_ignore_ascii_case("csv"));
        let by_name = if is_csv { Format::Csv } else { Format::Ndjson };
        let reader: Box<dyn Read + Send> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(&path).map_err(|why| format!("{}: {why}", path.display()))?)
        };
        Ok(Self {
            name: path.display().to_string(),
            format: format.unwrap_or(by_name),
            reader,
        })
    }
}

fn read_all(files: Vec<Text>, config: &Config, mut out: Out) {
    for file in files {
        let name = file.name.clone();
        let read = match file.format {
            Format::Ndjson => lines(file, config, &mut out),
            Format::Csv => rows(file, config, &mut out),
        };
        match read {
            Ok(Ok(())) => {}
            Ok(Err(Gone)) => return,
            Err(why) => return out.fail(format!("{name}: {why}")),
        }
    }
    let _ = out.flush();
}

/// Lines of JSON. What lies in the reader's buffer is taken together; before more is waited for, what
/// was read is handed over.
fn lines(file: Text, config: &Config, out: &mut Out) -> io::Result<Result<(), Gone>> {
    let mut reader = BufReader::with_capacity(MAX_LINE_BYTES, file.reader);
    let (mut line, mut number, mut too_long) = (Vec::new(), 0_u64, false);
    loop {
        let has_line = memchr::memchr(b'\n', reader.buffer()).is_some();
        if !has_line && out.flush().is_err() {
            return Ok(Err(Gone));
        }
        let reads = reader.buffer().is_empty();
        if reads && out.stop.is_cancelled() {
            return Ok(Err(Gone));
        }
        let asked = reads.then(now_ms);
        let buffer = reader.fill_buf()?;
        if reads {
            // A read that fills the buffer may have left something.
            out.mark = asked.filter(|_| buffer.len() < MAX_LINE_BYTES);
        }
        let at_end = buffer.is_empty();
        let (part, taken, whole) = match memchr::memchr(b'\n', buffer) {
            Some(at) => (&buffer[..at], at + 1, true),
            None => (buffer, buffer.len(), at_end),
        };
        too_long |= line.len() + part.len() > MAX_LINE_BYTES;
        if !too_long {
            line.extend_from_slice(part);
        }
        reader.consume(taken);
        if !whole {
            continue;
        }
        number += 1;
        let text = line.trim_ascii();
        let row = if too_long {
            Some(Err(format!("longer than {MAX_LINE_BYTES} bytes")))
        } else if text.is_empty() {
            None
        } else {
            Some(from_json(text, config))
        };
        let gone = row.is_some_and(|entry| {
            let at = format!("{}, line {number}", file.name);
            out.add(Row { at, entry }).is_err()
        });
        if gone {
            return Ok(Err(Gone));
        }
        if at_end {
            return Ok(Ok(()));
        }
        line.clear();
        too_long = false;
    }
}

fn from_json(text: &[u8], config: &Config) -> Result<super::row::Entry, String> {
    let text = std::str::from_utf8(text).map_err(|why| why.to_string())?;
    Values::json(text)?.entry(config)
}

/// Hands over what was read before it waits for more: a row must not wait for the next one.
struct FlushFirst<'a, 'b> {
    reader: Box<dyn Read + Send>,
    out: &'a RefCell<&'b mut Out>,
}

impl Read for FlushFirst<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut out = self.out.borrow_mut();
        if out.flush().is_err() || out.stop.is_cancelled() {
            // Not an end: half a row is none.
            return Err(io::Error::other("stopped"));
        }
        drop(out);
        let asked = now_ms();
        let read = self.reader.read(buffer)?;
        // A read that fills the buffer may have left something.
        self.out.borrow_mut().mark = (read < buffer.len()).then_some(asked);
        Ok(read)
    }
}

fn rows(file: Text, config: &Config, out: &mut Out) -> io::Result<Result<(), Gone>> {
    let out = RefCell::new(out);
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .trim(csv::Trim::All)
        .buffer_capacity(CSV_BUFFER_BYTES)
        .from_reader(FlushFirst {
            reader: file.reader,
            out: &out,
        });
    let header = match reader.headers() {
        Ok(header) => header.clone(),
        Err(_) if out.borrow().stop.is_cancelled() => return Ok(Err(Gone)),
        Err(why) => return Err(io::Error::other(why.to_string())),
    };
    let mut record = csv::StringRecord::new();
    loop {
        let read = reader.read_record(&mut record);
        let line = record.position().map_or(0, csv::Position::line);
        let entry = match read {
            Ok(false) => return Ok(Ok(())),
            Ok(true) => {
                let values = record.iter().map(std::borrow::Cow::Borrowed);
                Values::of(header.iter().zip(values)).entry(config)
            }
            // Text that is not UTF-8 spoils its own row only.
            Err(why) if !why.is_io_error() => Err(why.to_string()),
            Err(_) if out.borrow().stop.is_cancelled() => return Ok(Err(Gone)),
            Err(why) => return Err(io::Error::other(why)),
        };
        let at = format!("{}, line {line}", file.name);
        if out.borrow_mut().add(Row { at, entry }).is_err() {
            return Ok(Err(Gone));
        }
    }
}

impl Drop for Listener {
    /// What was read is handed over, also when nothing more is.
    fn drop(&mut self) {
        let _ = self.out.flush();
    }
}

/// Messages of a channel: lines of JSON each.
struct Listener {
    config: Config,
    standing: Standing,
    out: Out,
    stop: CancellationToken,
}

impl Sink for Listener {
    fn connected(&mut self) {
        self.standing.well();
    }

    fn lost(&mut self, why: &str) {
        self.standing.lost(why, |left_out| {
            tracing::warn!(%why, left_out, "the channel is lost: rows sent meanwhile are missed");
        });
    }

    fn served(&mut self, doubt: Option<Doubt>) {
        self.standing.served(doubt);
    }

    fn message(&mut self, channel: &str, payload: &[u8]) {
        if self.out.rows.is_empty() {
            self.out.read_at = Some(now_ms());
        }
        for line in payload.split(|byte| *byte == b'\n') {
            let text = line.trim_ascii();
            let row = Row {
                at: channel.to_owned(),
                entry: from_json(text, &self.config),
            };
            if !text.is_empty() && self.out.add(row).is_err() {
                self.stop.cancel();
            }
        }
    }

    fn flush(&mut self) {
        // What lay in the socket was taken.
        if !self.out.rows.is_empty() {
            self.out.mark = Some(now_ms());
        }
        if self.out.flush().is_err() {
            self.stop.cancel();
        }
    }
}

/// Runs a task of this thread's own until `stop`.
fn run<F: Future<Output = ()>>(out: Out, stop: &CancellationToken, task: impl FnOnce(Out) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            runtime.block_on(stop.run_until_cancelled(task(out)));
            // A name server that is silent may still be waited for: not here.
            runtime.shutdown_background();
        }
        Err(why) => {
            let mut out = out;
            out.fail(format!("cannot make a runtime: {why}"));
        }
    }
}
