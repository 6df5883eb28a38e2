//! `loadtest plan`: how many gateways a load needs, from what one was measured to cost.
//!
//! | part | what is in it |
//! |---|---|
//! | [`args`], [`inputs`] | what is stated |
//! | [`costs`], [`fit`] | what is measured: costs learned from runs |
//! | [`calibrate`], [`redis_cost`] | runs on the spot |
//! | [`model`], [`formula`] | from both to the answer, by formulas that the report shows |
//! | [`check`] | a load that this machine can carry, planned and run |
//! | [`report`], [`table`] | how it is told |

pub mod args;
pub mod calibrate;
pub mod check;
pub mod costs;
pub mod fit;
pub mod formula;
pub mod inputs;
pub mod model;
pub mod redis_cost;
pub mod report;
pub mod table;

use anyhow::Result;
use barcast::bar::{write_message, write_update};

use crate::clock::Clock;
use crate::figures::grouped;
use crate::machine::Machine;
use crate::market::Market;
use crate::pins::Pins;
use crate::publisher::Publish;
use args::PlanArgs;
use calibrate::Runner;
use costs::Evidence;
use model::{Book, Plan};
use report::{Check, PlanReport, Saving, Source, Year};

/// What no plan of this kind knows.
const UNKNOWNS: [&str; 9] = [
    "TLS: it is ended by a proxy in front, whose CPU, memory and connections are not in here.",
    "Other machines: costs are those of the machine they were measured on. Calibrate on a node that is to be bought.",
    "A real network: over loopback the receiver's half of TCP runs on the sender's core, which makes a write dearer; \
     interrupts of a network card, long round trips and losses are missing, which make it cheaper than life.",
    "More cores than were measured: workers are taken to share nothing, and memory bandwidth to suffice.",
    "Slow clients: outboxes (--outbox-bytes each, at worst) are not in the memory.",
    "Coming in: handshakes, snapshots and the reconnecting of a lost gateway's clients are not in the CPU.",
    "Skew: every user watches as many topics, and a balancer spreads users evenly. Headroom has to cover the rest.",
    "Redis failing: a standby and what brings it up are not counted; while Redis is away no bar comes.",
    "Shards: a gateway reads one Redis. With more than one shard, users connect to a gateway of each shard they need.",
];

/// Makes the plan.
///
/// # Errors
/// When a flag is wrong, a run fails, or the load fits on no such gateway.
pub fn plan(args: &PlanArgs) -> Result<PlanReport> {
    args.check_values()?;
    let mut book = args.book(typical_bytes()?);
    // Bad values are told before anything runs.
    args.state_costs(&book)?;
    let mut evidence = args
        .from
        .iter()
        .map(|path| Evidence::read(path))
        .collect::<Result<Vec<_>>>()?;
    let (mut checked, mut checked_with_max_rate) = (Vec::new(), Vec::new());
    if args.calibrate || args.check {
        let measured = run_all(args, &mut book)?;
        evidence.extend(measured.calibrated);
        checked = measured.checked;
        checked_with_max_rate = measured.checked_with_max_rate;
    }
    let calibration = costs::learn(&mut book, &evidence)?;
    let book = args.state_costs(&book)?;
    let compared = |runs: &[Evidence]| {
        let any = (!runs.is_empty()).then(|| check::compare(&book, runs));
        any.transpose()
    };
    let checks = [compared(&checked)?, compared(&checked_with_max_rate)?];
    report(args, &book, calibration, checks)
}

struct Measured {
    calibrated: Vec<Evidence>,
    checked: Vec<Evidence>,
    checked_with_max_rate: Vec<Evidence>,
}

/// Calibrates, and runs the load itself where it is to be checked, in turn, so that a machine that
/// changes with the minute changes for both.
fn run_all(args: &PlanArgs, book: &mut Book) -> Result<Measured> {
    let own = if args.check {
        Some(check::load(args)?)
    } else {
        None
    };
    let mut runner = Runner::start(args)?;
    let mut measured = Measured {
        calibrated: Vec::new(),
        checked: Vec::new(),
        checked_with_max_rate: Vec::new(),
    };
    let paced = own.and_then(|load| check::load_with_max_rate(args, load));
    for _ in 0..args.rounds {
        for load in calibrate::loads(args.calibrate_clients) {
            measured.calibrated.push(runner.run(load)?);
        }
        if let Some(load) = own {
            measured.checked.push(runner.run(load)?);
        }
        if let Some(load) = paced {
            measured.checked_with_max_rate.push(runner.run(load)?);
        }
    }
    for (publish, name) in [(Publish::Single, "single"), (Publish::Batch, "batch")] {
        runner
            .progress
            .phase(&format!("Redis: {name} messages to 1 and to 6 subscribers"));
        let cost =
            redis_cost::measure(publish, args.calibrate_clients, args.seconds / 2.0, || {
                runner.go_on()
            })?;
        for (way, value) in [("in", cost.in_us), ("out", cost.out_us)] {
            let from = "loadtest plan --calibrate: redis-server with 1 and with 6 subscribers";
            costs::measured(book, &format!("redis_{way}_{name}_us"), value, from);
        }
    }
    Ok(measured)
}

/// Length of a bar of `loadtest run`, to a client and as it is published.
fn typical_bytes() -> Result<(usize, usize)> {
    let market = Market::new("T", 1, 10, Clock::start().now_us())?;
    let message = market.message(0, 1, Clock::start().now_us())?;
    let (mut update, mut published) = (Vec::new(), Vec::new());
    write_update(&mut update, &message);
    write_message(&mut published, &message);
    Ok((update.len(), published.len()))
}

fn report(
    args: &PlanArgs,
    book: &Book,
    calibration: Vec<report::Explained>,
    [check, check_with_max_rate]: [Option<Check>; 2],
) -> Result<PlanReport> {
    let of_year = |year: u32| Plan::of(&book.with("year", f64::from(year), "--years"));
    let plan = of_year(args.years)?;
    let years = (0..=args.years).map(|year| {
        let plan = of_year(year)?;
        Ok(Year {
            year,
            users: plan.get("users_then"),
            answer: plan.answer(),
        })
    });
    let mut unknowns: Vec<String> = UNKNOWNS.map(str::to_owned).into();
    if cfg!(debug_assertions) && (args.calibrate || args.check) {
        unknowns.insert(
            0,
            "What an optimized build costs: this was calibrated by a debug build.".into(),
        );
    }
    let pins = Pins::choose(args.server_cpu.clone(), args.swarm_cpu.clone(), 1)?;
    Ok(PlanReport {
        title: title(args),
        answer: plan.answer(),
        years: years.collect::<Result<_>>()?,
        limits: plan.limits(),
        savings: savings(args, book)?,
        inputs: plan.inputs().to_vec(),
        figures: plan.computed().to_vec(),
        calibration,
        check,
        check_with_max_rate,
        unknowns,
        machine: Machine::ask(&pins),
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "for people"
)]
fn title(args: &PlanArgs) -> String {
    let whole = |n: f64| grouped(n.round() as u64);
    let growth = if args.years > 0 {
        format!(
            ", {:+.0} % a year for {} years",
            args.growth * 100.0,
            args.years
        )
    } else {
        String::new()
    };
    format!(
        "{} users × {} of {} topics, {} updates/s each (peak ×{}){growth}, {:.0} % kept free, {} to fail",
        whole(args.users),
        args.per_client,
        whole(args.topics),
        args.rate,
        args.peak,
        args.headroom * 100.0,
        args.failures,
    )
}

/// The plan if one thing were different.
fn savings(args: &PlanArgs, book: &Book) -> Result<Vec<Saving>> {
    let book = book.with("year", f64::from(args.years), "--years");
    let mut savings = Vec::new();
    let mut what_if = |name: String, what: &str, other: Book| -> Result<()> {
        savings.push(Saving {
            name,
            what: what.to_owned(),
            answer: Plan::of(&other)?.answer(),
        });
        Ok(())
    };
    if args.max_rate < args.rate * args.peak {
        let name = format!("max_rate {}/s", args.max_rate);
        let other = book.with("max_rate", args.max_rate, "--max-rate");
        what_if(
            name,
            "clients ask for at most so many updates of a topic; forming bars are conflated and a client's topics share a write, closed ones come at once",
            other,
        )?;
    }
    let batches = |book: &Book| book.with("batch", 1.0, "what if: batches");
    let together = |book: &Book| book.with("bursts", args.rate, "what if: all topics together");
    if args.publish == Publish::Single {
        what_if(
            "batches".into(),
            "producers publish many bars in one message (bars:@batch)",
            batches(&book),
        )?;
    }
    if book.get("bursts").is_some_and(|bursts| bursts > args.rate) {
        what_if(
            "together".into(),
            "producers publish all topics at the same moments, so that a client's bars share a write",
            together(&book),
        )?;
        if args.publish == Publish::Single {
            what_if(
                "batches, together".into(),
                "both",
                batches(&together(&book)),
            )?;
        }
    }
    Ok(savings)
}

impl Source {
    /// In one line.
    pub fn line(&self) -> String {
        match self {
            Self::Measured(from) => format!("measured: {from}"),
            Self::Stated(by) => format!("stated: {by}"),
            Self::Computed(formula) => format!("= {formula}"),
        }
    }
}
