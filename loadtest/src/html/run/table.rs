//! Every figure of runs, side by side.

use super::super::course::planned;
use super::super::page::Table;
use super::super::scale::plain;
use super::super::unit::Unit;
use super::{Run, micros};
use crate::figures::{grouped, per};
use crate::report::RunReport;

type Rows = Vec<(&'static str, fn(&RunReport) -> String)>;

/// What is not known.
const UNKNOWN: &str = "–";

pub fn tables(runs: &[Run<'_>]) -> Vec<Table> {
    let table = |caption: &str, rows: Rows| {
        let names = runs.iter().map(|(name, _)| (*name).to_owned());
        let head = std::iter::once(String::new()).chain(names).collect();
        let rows = rows.into_iter().map(|(what, of)| {
            let cells = runs.iter().map(|(_, run)| of(run));
            std::iter::once(what.to_owned()).chain(cells).collect()
        });
        Table::figures(caption, head, rows.collect())
    };
    vec![
        table("Load", load()),
        table("What came", came()),
        table("Latency from the planned time", latency()),
        table("What it cost", cost()),
    ]
}

fn load() -> Rows {
    vec![
        ("server", |run| run.server.clone()),
        ("clients", |run| grouped(run.scenario.clients.into())),
        ("topics", |run| grouped(run.scenario.topics.into())),
        ("topics of each client", |run| {
            let shape = format!("{:?}", run.scenario.shape).to_lowercase();
            format!("{}, {shape}", run.scenario.per_client)
        }),
        ("ticks, each of every topic", |run| {
            format!("{}/s", run.scenario.rate)
        }),
        ("messages through Redis", |run| {
            format!("{:?}", run.scenario.publish).to_lowercase()
        }),
        ("planned", |run| {
            format!("{} bars/s", plain(planned(&run.scenario), 0))
        }),
        ("measured ticks", |run| grouped(run.scenario.measured_ticks)),
        ("warm-up ticks", |run| grouped(run.scenario.warmup_ticks)),
    ]
}

fn came() -> Rows {
    vec![
        ("expected", |run| grouped(run.expected)),
        ("delivered", |run| share(run.counts.delivered, run.expected)),
        ("conflated", |run| share(run.counts.conflated, run.expected)),
        ("gapped", |run| share(run.counts.gapped, run.expected)),
        ("lost", |run| share(run.counts.lost, run.expected)),
        ("out of order", |run| grouped(run.counts.out_of_order)),
        ("duplicates", |run| grouped(run.counts.duplicates)),
        ("altered", |run| grouped(run.counts.altered)),
        ("clients disconnected", |run| grouped(run.gone)),
    ]
}

fn share(n: u64, of: u64) -> String {
    format!("{} ({:.2} %)", grouped(n), 100.0 * per(n, of))
}

fn latency() -> Rows {
    vec![
        ("p50", |run| known(run, run.latency_us.p50)),
        ("p90", |run| known(run, run.latency_us.p90)),
        ("p99", |run| known(run, run.latency_us.p99)),
        ("p99.9", |run| known(run, run.latency_us.p999)),
        ("p99.99", |run| known(run, run.latency_us.p9999)),
        ("maximum", |run| known(run, run.latency_us.max)),
        ("mean", |run| {
            if run.latency_us.count == 0 {
                UNKNOWN.to_owned()
            } else {
                Unit::Micros.tell(run.latency_us.mean)
            }
        }),
        ("publisher's worst start", |run| {
            micros(run.publisher.start_max_us)
        }),
        ("publisher's longest tick", |run| {
            micros(run.publisher.publish_max_us)
        }),
    ]
}

fn known(run: &RunReport, us: u64) -> String {
    if run.latency_us.count == 0 {
        UNKNOWN.to_owned()
    } else {
        micros(us)
    }
}

fn cost() -> Rows {
    vec![
        ("CPU of the server, per bar", |run| {
            cpu(run, |cpu| cpu.us_per_bar)
        }),
        ("… in user space", |run| {
            cpu(run, |cpu| cpu.user_us_per_bar)
        }),
        ("… in the kernel", |run| {
            cpu(run, |cpu| cpu.system_us_per_bar)
        }),
        ("cores busy with the server", |run| {
            let servers = run.occupancy.servers;
            servers.map_or(UNKNOWN.to_owned(), |cores| plain(cores, 3))
        }),
        ("cores busy with clients and publisher", |run| {
            format!(
                "{} of {}",
                plain(run.occupancy.swarm, 3),
                run.occupancy.swarm_cores
            )
        }),
        ("cores busy with Redis", |run| plain(run.occupancy.redis, 3)),
        ("on the wire, per bar", |run| {
            Unit::Bytes.tell(run.bytes_per_bar)
        }),
        ("system calls, per bar", |run| {
            let calls = run.system_calls.as_ref();
            calls.map_or(UNKNOWN.to_owned(), |calls| plain(calls.per_bar, 4))
        }),
        ("resident memory, per client", |run| {
            let memory = run.memory.as_ref();
            memory.map_or(UNKNOWN.to_owned(), |memory| {
                Unit::Bytes.tell(memory.bytes_per_client)
            })
        }),
        ("resident memory without and with clients", |run| {
            run.memory.as_ref().map_or(UNKNOWN.to_owned(), |memory| {
                let tell = |bytes| Unit::Bytes.tell(per(bytes, 1));
                format!(
                    "{} → {}",
                    tell(memory.before_bytes),
                    tell(memory.after_bytes)
                )
            })
        }),
        ("until all clients were subscribed", |run| {
            format!("{} s", plain(run.connect.seconds, 2))
        }),
    ]
}

fn cpu(run: &RunReport, of: fn(&crate::report::CpuFigures) -> f64) -> String {
    run.cpu
        .as_ref()
        .map_or(UNKNOWN.to_owned(), |cpu| Unit::Micros.tell(of(cpu)))
}
