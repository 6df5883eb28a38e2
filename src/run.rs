//! What each command does once its settings are known.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, MemoryBus, RedisBus};
use crate::check;
use crate::cli::Told;
use crate::files;
use crate::gateway::{self, Gateway};
use crate::generator;
use crate::metrics::GeneratorMetrics;
use crate::output::{self, STDOUT};
use crate::replay::verify::{self, Verify};

/// How often `dev` looks whether its gateway listens to the bus yet.
const CONNECT_POLL: Duration = Duration::from_millis(5);

/// `barcast verify`: 0 when both sources have the same bars, 1 when they differ, 2 when that is not known.
pub async fn verify(settings: Verify, stop: CancellationToken) -> ExitCode {
    // A source that hangs holds its thread; a signal ends the command all the same.
    let stopped = stop.clone();
    let compared = tokio::task::spawn_blocking(move || {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        verify::verify(&settings, &stopped, &mut out)
    });
    let compared = tokio::select! {
        compared = compared => compared.unwrap_or_else(|why| Err(why.to_string())),
        () = stop.cancelled() => Err("stopped before the end".to_owned()),
    };
    match compared {
        Ok(found) => {
            output::STDERR.write(format!("{found}\n").as_bytes());
            ExitCode::from(u8::from(!found.is_same()))
        }
        Err(why) => {
            output::say_error(&why);
            ExitCode::from(2)
        }
    }
}

/// `barcast serve`: a gateway on Redis, until `stop`.
///
/// # Errors
/// When the address cannot be bound or a thread cannot be made.
pub async fn serve(
    config: gateway::Config,
    bus: RedisBus,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let gateway = bind(config)?;
    run(gateway, bus, stop).await
}

/// `barcast dev`: generator and gateway in one process, until `stop`.
///
/// # Errors
/// As [`serve`].
pub async fn dev(
    config: gateway::Config,
    market: generator::Config,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let gateway = bind(config)?;
    let below = format!("{}{}", gateway.address(), gateway.node().config.base_path);
    let first = market.symbols.first().zip(market.resolutions.first());
    let subscribe = first.map_or_else(String::new, |(symbol, resolution)| {
        format!(
            r#"{{"type":"bars.subscribe","payload":{{"symbol":"{symbol}","resolution":"{resolution}"}}}}"#
        )
    });
    say_where(gateway.node().config.ui, &below, &subscribe);

    let bus = MemoryBus::default();
    let node = gateway.node();
    let metrics = GeneratorMetrics::default();
    node.show_generator(metrics.clone());
    let generator = tokio::spawn({
        let (bus, stop) = (bus.clone(), stop.clone());
        async move {
            // What is published before anybody listens is gone, and the backfill comes but once.
            while !node.bus.is_connected() && !stop.is_cancelled() {
                sleep(CONNECT_POLL).await;
            }
            generator::run(market, bus.publisher(), metrics, stop).await;
        }
    });
    let ended = run(gateway, bus, stop.clone()).await;
    stop.cancel();
    generator.await.context("the generator panicked")?;
    ended
}

/// Says on stdout where to look, which nobody need read.
fn say_where(has_pages: bool, below: &str, subscribe: &str) {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("barcast {version} streams synthetic bars\n");
    if has_pages {
        text.push_str(&format!("  charts     http://{below}/\n"));
        text.push_str(&format!("  operation  http://{below}/ops\n"));
    }
    text.push_str(&format!("  WebSocket  ws://{below}/api/v1/ws\n"));
    text.push_str(&format!(
        "  try        python3 -m websockets ws://{below}/ws\n"
    ));
    text.push_str(&format!("             {subscribe}\n"));
    STDOUT.write(text.as_bytes());
}

/// `barcast check`: what is well and what is not on stdout. The exit code is 0 when nothing failed, 1
/// otherwise, also when `stop` came first.
pub async fn check(config: &check::Config, told: Told, stop: CancellationToken) -> ExitCode {
    // What cannot be written, to a pipe that is closed, is nobody's concern.
    let say = |line: &str| {
        let _ = writeln!(std::io::stdout(), "{line}");
    };
    let checked = check::check(config, |step| {
        if let Told::Lines { colours } = told {
            say(&step.line(colours));
        }
    });
    let Some(report) = stop.run_until_cancelled(checked).await else {
        return ExitCode::FAILURE;
    };
    match told {
        Told::Json => say(&report.json()),
        Told::Lines { .. } => say(&report.summary()),
    }
    if report.is_well() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn bind(mut config: gateway::Config) -> anyhow::Result<Gateway> {
    let (open_files, max_clients) = (files::limit(), config.limits.max_clients);
    config.fit_files(open_files)?;
    let listen = config.listen;
    let gateway =
        Gateway::bind(config).with_context(|| format!("--listen (BARCAST_LISTEN) = {listen}"))?;
    let clients = gateway.node().config.limits.max_clients;
    if clients < max_clients {
        tracing::info!(
            open_files,
            max_clients,
            clients,
            http_connections = gateway.node().config.http_connections(),
            "open-file limit is below --max-clients; raise ulimit -n"
        );
    }
    Ok(gateway)
}

async fn run<B: Bus>(gateway: Gateway, bus: B, stop: CancellationToken) -> anyhow::Result<()> {
    let node = gateway.node();
    tracing::info!(
        address = %gateway.address(),
        workers = node.config.workers,
        bus = bus.address(),
        limits = ?node.config.limits,
        history_bars = node.config.history_bars,
        "gateway listens"
    );
    let told = tokio::spawn({
        let (stop, node) = (stop.clone(), node.clone());
        async move {
            stop.cancelled().await;
            let grace = node.config.drain_grace;
            tracing::info!(clients = node.clients(), ?grace, "draining");
        }
    });
    let ended = gateway.run(bus, stop).await;
    told.abort();
    match ended.context("the gateway stopped")?.cut {
        0 => tracing::info!("drained: all clients have left"),
        cut => tracing::warn!(cut, "the grace period is over: clients were cut"),
    }
    Ok(())
}
