/** The figures that are read first. No DOM, so that it can be tested. */

import { value } from "./openmetrics.js";
import * as units from "./units.js";

/** From this share of a limit on it is time to do something. */
const NEAR = 0.9;
/** A chart that is behind by so many seconds is seen to be. */
const LAGGING_SECONDS = 1;

/**
 * @param {import("./openmetrics.js").Figures|null} figures  `null` while the gateway is out of reach
 * @param {import("./recorder.js").Recorder} recorder
 * @returns {{id: string, name: string, text: string, more: string, level: ""|"ok"|"warn"|"bad"}[]}
 */
export function tiles(figures, recorder) {
  const of = (name) => (figures ? value(figures, name) : null);
  const tile = (id, name, text, more = "", level = "") => ({ id, name, text, more, level });
  const limited = (id, name, now, most, write) => {
    const share = now === null || !most ? null : now / most;
    return tile(id, name, write(now), most === null ? "" : `of ${write(most)}`, share !== null && share >= NEAR ? "warn" : "");
  };
  const p99 = recorder.last("p99");
  const lags = ["p50", "p90"].map((name) => `${name} ${units.lag(recorder.last(name))}`).join(", ");
  return [
    state(of, tile),
    bus(of, tile),
    limited("clients", "Clients", of("barcast_clients"), of("barcast_max_clients"), units.whole),
    tile("topics", "Topics", units.whole(of("barcast_topics")), `${units.perSecond(recorder.last("received"))} bars in`),
    tile("delivered", "Delivered", units.perSecond(recorder.last("delivered")), `${units.perSecond(recorder.last("conflated"))} conflated`),
    gapped(recorder, tile),
    tile("lag", "Lag p99", units.lag(p99), p99 === null ? "no time stamps" : lags, p99 !== null && p99 >= LAGGING_SECONDS ? "warn" : ""),
    tile("cpu", "CPU", units.cores(recorder.last("cpu")), busiest(recorder)),
    tile("memory", "Memory", units.bytes(of("process_resident_memory_bytes")), "resident"),
    limited("files", "Open files", of("process_open_fds"), of("process_max_fds"), units.whole),
  ];
}

function state(of, tile) {
  const [ready, draining, connected] = ["barcast_ready", "barcast_draining", "barcast_bus_connected"].map(of);
  if (ready === null) return tile("state", "Gateway", units.UNKNOWN, "no data", "");
  if (draining) return tile("state", "Gateway", "Draining", "lets nobody in", "warn");
  if (!ready) return tile("state", "Gateway", "Not ready", connected ? "" : "its bus is lost", "bad");
  return tile("state", "Gateway", "Ready", "lets clients in", "ok");
}

function bus(of, tile) {
  const [connected, again] = ["barcast_bus_connected", "barcast_bus_reconnects_total"].map(of);
  if (connected === null) return tile("bus", "Redis", units.UNKNOWN, "no data", "");
  // A generator in the same process: `barcast dev`, which needs no Redis.
  if (of("barcast_ticks_total") !== null) return tile("bus", "Bus", connected ? "Connected" : "Lost", "in this process", connected ? "ok" : "bad");
  const more = again === 1 ? "1 reconnect" : `${units.whole(again)} reconnects`;
  return connected ? tile("bus", "Redis", "Connected", more, "ok") : tile("bus", "Redis", "Lost", `${more}; clients stay`, "bad");
}

function gapped(recorder, tile) {
  const [slow, left] = ["slow_client", "disconnected"].map((name) => recorder.last(name));
  return tile("gapped", "Gapped", units.perSecond(slow), `${units.perSecond(left)} left first`, slow > 0 ? "warn" : "");
}

function busiest(recorder) {
  const values = recorder.points.at(-1)?.values ?? {};
  const busy = Object.entries(values).filter(([name]) => name.startsWith("busy ")).map(([, share]) => share);
  return busy.length === 0 ? "" : `busiest worker ${units.percent(Math.max(...busy))}`;
}
