//! Plans: computed by hand, and their properties. The whole command is in `plan_command.rs`.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

use clap::Parser;
use loadtest::cli::{Cli, Command};
use loadtest::plan::args::PlanArgs;
use loadtest::plan::check;
use loadtest::plan::model::{Book, Plan};
use loadtest::plan::plan;
use loadtest::plan::report::Source;
use proptest::prelude::*;

fn args(line: &str) -> PlanArgs {
    let words = ["loadtest", "plan"]
        .into_iter()
        .chain(line.split_whitespace());
    match Cli::try_parse_from(words).unwrap().command {
        Command::Plan(args) => args,
        other => panic!("{other:?}"),
    }
}

/// Round costs, so that a head can compute with them.
const COSTS: &str = "--cost write_us=10 --cost bar_us=0.5 --cost cost_bytes=200 --cost ingest_single_us=2 \
    --cost ingest_batch_us=0.5 --cost redis_in_single_us=1 --cost redis_out_single_us=0.5 \
    --cost redis_in_batch_us=0.1 --cost redis_out_batch_us=0.05 --cost base_mib=32 --cost session_kib=1 \
    --cost subscription_bytes=64 --cost kernel_kib=5 --cost write_copies=2 --cost history_bar_bytes=64";

fn of(line: &str) -> Plan {
    let args = args(&format!("{line} {COSTS}"));
    args.check_values().unwrap();
    let book = args.book((196, 180));
    Plan::of(&args.state_costs(&book).unwrap()).unwrap()
}

fn assert_near(plan: &Plan, name: &str, by_hand: f64) {
    let value = plan.get(name);
    assert!(
        (value - by_hand).abs() <= 1e-9 * by_hand.abs(),
        "{name}: {value}, by hand {by_hand}"
    );
}

#[test]
fn a_plan_is_what_a_head_computes() {
    // 60,000 clients, each written once a tick, twice a second at the peak, with 10 bars.
    let plan = of(
        "--users 60000 --topics 100 --per-client 10 --rate 1 --peak 2 --headroom 0.5 --failures 1 \
         --cores 2 --memory 4 --egress 1 --max-clients 100000 --history-bars 1000",
    );
    for (name, by_hand) in [
        ("messages", 200.0),
        ("deliveries", 1_200_000.0),
        ("writes", 120_000.0),
        ("bars_a_write", 10.0),
        // 196 bytes and a head of 4.
        ("frame_bytes", 200.0),
        // 120,000 × 10 µs + 1,200,000 × 0.5 µs + 60,000 / 25 pings × 2 × 10 µs.
        ("worker_cores", 1.2 + 0.6 + 0.048),
        ("ingest_cores", 0.000_4),
        // 1.848 of 2 × 0.5 − 0.0004 each.
        ("gateways_cpu", 2.0),
        // 2,000 bytes take 2 segments with 90 bytes around each.
        ("egress_all", (1.2e6 * 200.0 + 240_000.0 * 90.0) * 8.0 / 1e9),
        // 2.0928 of 0.5 each.
        ("gateways_egress", 5.0),
        ("client_bytes", 1_024.0 + 640.0 + 5_120.0 + 4_000.0),
        (
            "node_gib",
            0.031_25 + 100.0 * 1_000.0 * 64.0 / 1_073_741_824.0,
        ),
        ("gateways_memory", 1.0),
        ("gateways_clients", 2.0),
        ("serving", 5.0),
        ("gateways", 6.0),
        ("clients_per_gateway", 12_000.0),
        ("cores_all", 12.0),
        ("busy_cores", 1.848 + 6.0 * 0.000_4),
        // 0.6 s for the writes of a burst and 0.3 s for its bars, on 5 gateways of 2 cores.
        (
            "burst_ms",
            (60_000.0 * 10.0 + 600_000.0 * 0.5) / 1_000.0 / 10.0,
        ),
        ("redis_instances", 1.0),
        ("redis_cores", 200.0 * (1.0 + 6.0 * 0.5) / 1e6),
        ("shards", 1.0),
    ] {
        assert_near(&plan, name, by_hand);
    }
    let answer = plan.answer();
    assert_eq!(
        (answer.gateways, answer.spare_gateways, answer.cores),
        (6, 1, 12)
    );
    let limits = plan.limits();
    assert_eq!(limits[0].name, "egress");
    assert_eq!(limits[0].gateways, Some(5));
    assert!(
        (limits[0].share - 2.0928 / 5.0).abs() < 1e-9,
        "{:?}",
        limits[0]
    );
    assert!(limits.is_sorted_by(|a, b| a.share >= b.share));
}

#[test]
fn updates_that_come_apart_share_no_write() {
    let load = "--users 1000 --topics 1000 --per-client 10 --rate 2 --peak 1";
    let together = of(load);
    assert_near(&together, "writes", 2_000.0);
    let spread = of(&format!("{load} --spread"));
    // Each of 2,000 bursts a second has one topic of 1,000: nearly each bar is a write.
    let writes = 1_000.0 * 2_000.0 * (1.0 - 0.999_f64.powi(10));
    assert_near(&spread, "writes", writes);
    assert!((19_900.0..20_000.0).contains(&writes), "{writes}");
    assert_near(&spread, "deliveries", 20_000.0);
    // Half the topics in each of 4 bursts: a client of 2 topics is written in 3 of 4.
    let half = of("--users 1000 --topics 1000 --per-client 2 --rate 2 --peak 1 --bursts 4");
    assert_near(&half, "writes", 1_000.0 * 4.0 * 0.75);
}

#[test]
fn a_users_topics_share_the_writes_of_max_rate() {
    // 20 bursts a second with a tenth of the topics each, and bars of 40 updates.
    let load =
        "--users 1000 --topics 1000 --per-client 10 --rate 2 --bursts 20 --bar-ticks 40 --peak 2";
    let at = |max_rate: f64| {
        let args = args(&format!("{load} {COSTS}"));
        let book = args.state_costs(&args.book((196, 180))).unwrap();
        Plan::of(&book.with("max_rate", max_rate, "clients ask for it")).unwrap()
    };
    let touched = 1.0 - 0.9_f64.powi(10);
    assert_near(&of(load), "writes", 1_000.0 * 40.0 * touched);
    assert_near(&of(load), "paced", 0.0);
    // Two turns, and half a burst of closed bars, half of which come last before a turn.
    let writes = 1.0 + 0.5 * (1.0 - 2.0 * 0.1_f64.powi(9));
    assert_near(&at(2.0), "writes", 1_000.0 * (2.0 + 0.5 * touched * writes));
    assert_near(&at(2.0), "deliveries", 1_000.0 * 10.0 * (2.0 + 0.05 * 0.5));
    // Turns every two seconds meet, since all topics had an update in the second in which they began.
    let phases = 1.0;
    assert_near(&at(0.5), "phases", phases);
    let writes = 1.0 + 0.125 * (1.0 - 2.0 * 0.1_f64.powi(9));
    assert_near(
        &at(0.5),
        "writes",
        1_000.0 * (0.5 * phases + 0.5 * touched * writes),
    );
    // As many as there are updates.
    assert_near(&at(4.0), "writes", 1_000.0 * 40.0 * touched);
    assert_near(&at(4.0), "deliveries", 1_000.0 * 10.0 * 4.0);
}

#[test]
fn max_rate_is_checked_where_it_holds_something_back() {
    let paced = |line: &str| {
        let args = args(line);
        let load = check::load(&args).unwrap();
        assert_eq!(load.max_rate, None);
        check::load_with_max_rate(&args, load).and_then(|load| load.max_rate)
    };
    assert_eq!(paced("--check --rate 5 --max-rate 2"), Some(2.0));
    assert_eq!(paced("--check --rate 2 --max-rate 2"), None);
    // The yardstick does not know of it.
    assert_eq!(paced("--check --rate 5 --max-rate 2 --server floor"), None);
}

#[test]
fn what_one_redis_cannot_carry_is_split_or_fed_by_replicas() {
    // 1,000,000 bars/s at 2 µs: an ingest thread takes 250,000 when half is kept free; Redis, at
    // 1 + 2 × 0.5 µs, as many.
    let plan = of(
        "--users 1 --topics 100000 --per-client 1 --rate 10 --peak 1 --headroom 0.5 --history-bars 1",
    );
    assert_near(&plan, "ingest_carries", 250_000.0);
    assert_near(&plan, "redis_carries", 250_000.0);
    assert_near(&plan, "shards", 4.0);
    assert_near(&plan, "connections", 1.0);
    assert_near(&plan, "gateways", 8.0);
    // A user of two topics out of four shards has 4 × (1 − (3/4)²) connections.
    let two = of(
        "--users 1 --topics 100000 --per-client 2 --rate 10 --peak 1 --headroom 0.5 --history-bars 1",
    );
    assert_near(&two, "connections", 1.75);
    // 100,000 bars/s take 0.1 of Redis's thread, and each gateway 0.05: 0.5 are there for 8.
    let fed = of(
        "--users 1000000 --topics 100000 --per-client 1 --rate 1 --peak 1 --headroom 0.5 \
         --max-clients 50000 --history-bars 1 --failures 0 --egress 100",
    );
    assert_near(&fed, "gateways", 40.0);
    assert_near(&fed, "redis_feeds", 8.0);
    // Five replicas feed 8 gateways each, and one primary feeds them.
    assert_near(&fed, "redis_instances", 6.0);
}

#[test]
fn savings_are_plans_with_one_thing_different() {
    let report = plan(&args(&format!(
        "--users 1000000 --topics 1000 --per-client 10 --rate 4 --peak 1 --spread --max-rate 1 {COSTS}"
    )))
    .unwrap();
    let gateways = |name: &str| {
        report
            .savings
            .iter()
            .find(|s| s.name == name)
            .unwrap()
            .answer
    };
    let now = report.answer;
    // A quarter of the updates and the closed bars, and most of a user's topics share a write.
    let paced = gateways("max_rate 1/s");
    let ratio = now.egress_gbit_s / paced.egress_gbit_s;
    assert!((3.8..8.0).contains(&ratio), "{ratio}");
    assert!(paced.gateways < now.gateways);
    assert!(paced.busy_cores < now.busy_cores / 8.0, "{paced:?}");
    assert!(gateways("together").busy_cores < now.busy_cores / 3.0);
    assert!(gateways("batches").busy_cores < now.busy_cores);
    assert!(report.is_clean(), "nothing was checked");
}

#[test]
fn every_number_says_where_it_comes_from() {
    let report = plan(&args(&format!("--years 2 --growth 0.5 {COSTS}"))).unwrap();
    let mut known: Vec<&str> = Vec::new();
    for figure in report.inputs.iter().chain(&report.figures) {
        match &figure.source {
            Source::Computed(formula) => {
                let words = formula.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                let functions = ["min", "max", "ceil", "floor", "head", "tree"];
                for word in words.filter(|w| w.starts_with(|c: char| c.is_ascii_lowercase())) {
                    assert!(
                        known.contains(&word) || functions.contains(&word),
                        "{word} in {formula}"
                    );
                }
            }
            Source::Measured(from) | Source::Stated(from) => assert!(!from.is_empty()),
        }
        assert!(!figure.what.is_empty(), "{}", figure.name);
        known.push(&figure.name);
    }
    assert!(
        report
            .explanation()
            .contains("= users * (1 + growth) ^ year")
    );
    let users: Vec<f64> = report.years.iter().map(|year| year.users).collect();
    assert_eq!(users, [100_000.0, 150_000.0, 225_000.0]);
}

/// A load and a node, as flags.
#[derive(Debug, Clone)]
struct Case {
    users: f64,
    topics: f64,
    per_client: f64,
    rate: f64,
    peak: f64,
    growth: f64,
    bursts: f64,
    headroom: f64,
    failures: u32,
    cores: u32,
}

impl Case {
    fn plan(&self) -> Plan {
        Plan::of(&self.inputs()).unwrap()
    }

    fn inputs(&self) -> Book {
        let c = self;
        let mut line = format!(
            "--users {} --topics {} --per-client {} --rate {} --peak {} --growth {} --bursts {} \
             --headroom {} --failures {} --cores {} --memory 1000",
            c.users,
            c.topics,
            c.per_client.min(c.topics),
            c.rate,
            c.peak,
            c.growth,
            c.rate * c.bursts,
            c.headroom,
            c.failures,
            c.cores
        );
        line.push_str(" --years 3 ");
        let args = args(&format!("{line} {COSTS}"));
        args.check_values().unwrap();
        let book = args.state_costs(&args.book((196, 180))).unwrap();
        book.with("year", 3.0, "three years")
    }
}

fn cases() -> impl Strategy<Value = Case> {
    (
        (
            1.0..1e7_f64,
            1.0..1e5_f64,
            1_u32..500,
            0.01..20.0_f64,
            1.0..10.0_f64,
        ),
        (
            0.0..2.0_f64,
            1.0..1_000.0_f64,
            0.0..0.9_f64,
            0_u32..5,
            1_u32..128,
        ),
    )
        .prop_map(
            |(
                (users, topics, per_client, rate, peak),
                (growth, bursts, headroom, failures, cores),
            )| Case {
                users,
                topics: topics.round(),
                per_client: f64::from(per_client),
                rate,
                peak,
                growth,
                bursts,
                headroom,
                failures,
                cores,
            },
        )
}

/// What more of something must never lower.
const NEEDS: [&str; 7] = [
    "gateways",
    "cores_all",
    "busy_cores",
    "memory_all",
    "egress_all",
    "redis_instances",
    "writes",
];

/// No smaller, but for what floating point leaves.
fn needs_no_less(more: &Plan, less: &Plan, names: &[&str]) {
    for name in names {
        assert!(
            more.get(name) >= less.get(name) * (1.0 - 1e-9),
            "{name}: {} after {}",
            more.get(name),
            less.get(name)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn more_users_never_need_less(case in cases(), times in 1.0..10.0_f64) {
        let more = Case { users: case.users * times, ..case.clone() };
        needs_no_less(&more.plan(), &case.plan(), &NEEDS);
        let grown = Case { growth: case.growth * times, ..case.clone() };
        needs_no_less(&grown.plan(), &case.plan(), &NEEDS);
    }

    #[test]
    fn a_higher_peak_never_needs_less(case in cases(), times in 1.0..10.0_f64) {
        let (usual, peak) = (case.plan(), Case { peak: case.peak * times, ..case.clone() }.plan());
        needs_no_less(&peak, &usual, &["shards", "deliveries", "writes", "egress_all", "messages"]);
        // Topics that are split into more shards leave each gateway less to take in and to keep.
        if peak.get("shards") == usual.get("shards") {
            needs_no_less(&peak, &usual, &["gateways", "busy_cores", "redis_instances"]);
        }
    }

    #[test]
    fn a_lower_max_rate_never_needs_more(case in cases(), max_rate in 0.01..10.0_f64, times in 1.0..10.0_f64) {
        let at = |max_rate: f64| {
            let inputs = case.inputs().with("max_rate", max_rate, "clients ask for it");
            Plan::of(&inputs).unwrap()
        };
        let (lower, higher) = (at(max_rate), at(max_rate * times));
        needs_no_less(&higher, &lower, &["deliveries"]);
        needs_no_less(&case.plan(), &lower, &["writes", "deliveries", "egress_all"]);
        assert!(lower.get("writes") <= lower.get("deliveries") * (1.0 + 1e-9));
        assert!(lower.get("burst_ms").is_finite());
    }

    #[test]
    fn failures_add_gateways_and_nothing_else(case in cases()) {
        let (less, more) = (case.plan(), Case { failures: case.failures + 1, ..case.clone() }.plan());
        assert_eq!(more.get("gateways"), less.get("gateways") + less.get("shards"));
        for name in ["serving", "writes", "egress_all", "worker_cores"] {
            assert_eq!(more.get(name), less.get(name), "{name}");
        }
        needs_no_less(&more, &less, &NEEDS);
    }

    #[test]
    fn nothing_is_used_beyond_the_headroom(case in cases()) {
        let plan = case.plan();
        for limit in plan.limits() {
            // Redis feeds two at least, which the shards make room for; headroom holds for all others, too.
            assert!(limit.share <= 1.0 - case.headroom + 1e-9, "{limit:?}");
            assert!(limit.gateways.is_none_or(|n| n <= plan.answer().gateways));
        }
        assert!(plan.get("writes") <= plan.get("deliveries") * (1.0 + 1e-9));
        assert!(plan.get("connections") >= plan.get("users_then") * (1.0 - 1e-9));
    }
}
