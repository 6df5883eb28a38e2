//! The table on a terminal, on its alternate screen: what was there before comes back at the end.

use std::time::{Duration, Instant};

use console::Term;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Left;
use super::draw::{Clock, draw};
use super::table::Table;
use crate::client::follow::Event;

/// At most so often it is drawn: ten times a second looks alive, and costs nothing over a slow line.
const FRAME: Duration = Duration::from_millis(100);
/// Ages count on while nothing comes.
const SECOND: Duration = Duration::from_secs(1);
/// How long a terminal that is held may keep us from leaving it.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Alternate screen, no cursor (xterm's private modes 1049 and 25).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Home; to the end of the line; to the end of the screen (ECMA-48: CUP, EL, ED).
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";

/// Draws what happens until there is nothing more or enough of it.
pub(super) async fn show(
    events: &mut mpsc::Receiver<Event>,
    queue: &mpsc::Sender<Vec<u8>>,
    left: &mut Left,
    table: &mut Table,
    colours: bool,
) {
    if queue.send(ENTER.into()).await.is_err() {
        return;
    }
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_news = true;
    let mut second = Instant::now();
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return };
                let is_last = left.is_over_after(&event);
                table.take(event, Instant::now());
                is_news = true;
                if is_last {
                    let _ = queue.try_send(frame(table, colours));
                    return;
                }
            }
            _ = frames.tick() => {
                if second.elapsed() >= SECOND {
                    second = Instant::now();
                    table.second();
                    is_news = true;
                }
                // A terminal that is behind gets the next one.
                if std::mem::take(&mut is_news) {
                    let _ = queue.try_send(frame(table, colours));
                }
            }
        }
    }
}

fn frame(table: &Table, colours: bool) -> Vec<u8> {
    let lines: Vec<_> = lines(table, colours)
        .into_iter()
        .map(|line| line + CLEAR_LINE)
        .collect();
    // None behind the last: the screen would scroll.
    format!("{HOME}{}{CLEAR_REST}", lines.join("\r\n")).into_bytes()
}

fn lines(table: &Table, colours: bool) -> Vec<String> {
    // Asked each time: it may have another size by now.
    let (height, width) = Term::stdout().size();
    let (width, height) = (usize::from(width), usize::from(height));
    let now = Instant::now();
    let ms = table.time.ms_at(now);
    let clock = Clock { now, ms };
    let lines = draw(table, width, height, clock);
    lines.iter().map(|l| l.render(width, colours)).collect()
}

/// Gives the terminal back as it was, with the last table below.
pub(super) async fn leave(queue: &mpsc::Sender<Vec<u8>>, table: &Table, colours: bool) {
    let mut last = LEAVE.to_owned();
    if !table.rows.is_empty() {
        // The first line says how the connection stood, which is over.
        for line in lines(table, colours).iter().skip(1) {
            last += line;
            last += "\r\n";
        }
    }
    let _ = timeout(LEAVE_TIMEOUT, queue.send(last.into())).await;
}
