//! What the kernel says of processes and cores (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::pins::Cores;

/// Nanoseconds of one tick of `/proc/PID/stat`: USER_HZ is 100 on every Linux that Rust runs on.
const TICK_NS: u64 = 10_000_000;

/// CPU time of a process and its descendants, in nanoseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// The scheduler's own count, exact; the two below together where the kernel keeps none.
    pub total_ns: u64,
    /// In user space, sampled by the kernel: true over seconds.
    pub user_ns: u64,
    /// In the kernel, likewise.
    pub system_ns: u64,
}

impl Cpu {
    /// In seconds.
    pub fn seconds(self) -> f64 {
        Duration::from_nanos(self.total_ns).as_secs_f64()
    }

    /// Of both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            total_ns: self.total_ns + other.total_ns,
            user_ns: self.user_ns + other.user_ns,
            system_ns: self.system_ns + other.system_ns,
        }
    }

    /// What was used since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            total_ns: self.total_ns.saturating_sub(before.total_ns),
            user_ns: self.user_ns.saturating_sub(before.user_ns),
            system_ns: self.system_ns.saturating_sub(before.system_ns),
        }
    }
}

/// The fields of `/proc/PID/stat` after the name, which may hold spaces and parentheses.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// A process and all that descend from it.
pub fn family(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|child: u32| Some((child, stat(child)?.get(1)?.parse().ok()?)))
        .collect();
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        let children = parents.iter().filter(|(_, of)| *of == parent);
        family.extend(children.map(|(child, _)| *child));
        at += 1;
    }
    family
}

/// Nanoseconds on a CPU of all threads that live, by the scheduler (`schedstat`, first field).
fn scheduled(pid: u32) -> Option<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end while the list is read.
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next()?.parse::<u64>().unwrap_or(0);
    }
    Some(sum)
}

/// CPU time of these processes, as listed by [`family`].
///
/// # Errors
/// When the first of them is no more.
pub fn cpu(family: &[u32]) -> Result<Cpu> {
    let mut cpu = Cpu::default();
    for (nth, pid) in family.iter().enumerate() {
        let Some(fields) = stat(*pid) else {
            anyhow::ensure!(nth > 0, "the server (process {pid}) has ended");
            continue;
        };
        // utime and stime are the 14th and 15th field; ours begin with the third.
        let ticks = |at: usize| {
            fields
                .get(at)
                .and_then(|f| f.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let (user, system) = (ticks(11) * TICK_NS, ticks(12) * TICK_NS);
        cpu.user_ns += user;
        cpu.system_ns += system;
        cpu.total_ns += scheduled(*pid)
            .filter(|ns| *ns > 0)
            .unwrap_or(user + system);
    }
    Ok(cpu)
}

/// Resident memory of these processes, in bytes.
pub fn resident(family: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    family.iter().filter_map(of).sum::<u64>() * 1024
}

/// Cores of the machine, whether this process may use them or not; 1 when the kernel does not say.
pub fn cores() -> usize {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let is_core = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    text.lines().filter(is_core).count().max(1)
}

/// Time that cores were busy and were there at all, in ticks, since the machine started.
#[derive(Debug, Default, Clone, Copy)]
pub struct Busy {
    busy: u64,
    all: u64,
}

impl Busy {
    /// Of these cores, from `/proc/stat`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(cores: &Cores) -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let mut sum = Self::default();
        for core in cores.list() {
            let name = format!("cpu{core}");
            let line = text.lines().find(|l| l.split(' ').next() == Some(&name));
            let ticks = line.into_iter().flat_map(|l| l.split_whitespace().skip(1));
            // user nice system idle iowait irq softirq steal; guest time is in user already.
            for (at, ticks) in ticks.take(8).enumerate() {
                let ticks: u64 = ticks.parse().unwrap_or(0);
                sum.all += ticks;
                sum.busy += if at == 3 || at == 4 { 0 } else { ticks };
            }
        }
        Ok(sum)
    }

    /// The busy share since `before`, 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more")]
    pub fn share_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        self.busy.saturating_sub(before.busy) as f64 / all.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    #[test]
    fn cpu_time_of_this_process_grows_with_work() {
        let me = [std::process::id()];
        let before = cpu(&me).unwrap();
        let (start, mut n) = (Instant::now(), 0_u64);
        let used = loop {
            n = n.wrapping_add(1);
            let used = cpu(&me).unwrap().since(before);
            if used.total_ns > 50_000_000 {
                break used;
            }
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "{used:?} after {n}"
            );
        };
        assert!(used.user_ns + used.system_ns > 0);
        assert!(resident(&me) > 1 << 20);
    }

    #[test]
    fn a_child_belongs_to_the_family_until_it_ends() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(family(std::process::id()).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!family(std::process::id()).contains(&child.id()));
        assert!(cpu(&[child.id()]).is_err());
    }
}
