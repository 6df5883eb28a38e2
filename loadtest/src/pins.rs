//! Which cores serve and which measure.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Some cores, as `0,2-3`; or all that there are, as `all`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

impl Cores {
    /// All that this process may use.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn all() -> Result<Self> {
        let set = sched_getaffinity(Pid::from_raw(0)).context("sched_getaffinity")?;
        let cores = (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false));
        Ok(Self(cores.collect()))
    }

    /// Their numbers.
    pub fn list(&self) -> &[usize] {
        &self.0
    }

    fn set(&self) -> Result<CpuSet> {
        let mut set = CpuSet::new();
        for core in &self.0 {
            set.set(*core).with_context(|| format!("core {core}"))?;
        }
        Ok(set)
    }

    /// Pins the calling thread, and the threads and processes it will start.
    ///
    /// # Errors
    /// When there are no such cores.
    pub fn pin(&self) -> Result<()> {
        let pinned = sched_setaffinity(Pid::from_raw(0), &self.set()?);
        pinned.with_context(|| format!("cannot use the cores {self}"))
    }

    /// Runs `start` pinned to these cores and goes back to where the thread was: what it starts stays
    /// here. (`taskset` does the same by a process of its own.)
    ///
    /// # Errors
    /// When there are no such cores, or `start` fails.
    pub fn with<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = Self::all()?;
        self.pin()?;
        let started = start();
        before.pin()?;
        started
    }
}

impl FromStr for Cores {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "all" {
            return Self::all();
        }
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let parse = |n: &str| n.trim().parse::<usize>();
            let (Ok(from), Ok(to)) = (parse(from), parse(to)) else {
                bail!("allowed: all, or cores as 0,2-3");
            };
            if to < from || to >= CpuSet::count() {
                bail!("allowed: cores from 0 to {}", CpuSet::count() - 1);
            }
            cores.extend(from..=to);
        }
        cores.sort_unstable();
        cores.dedup();
        Ok(Self(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&cores.join(","))
    }
}

impl serde::Serialize for Cores {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Cores {
    /// As it was written, also where this machine has no such core.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let cores = text.split(',').map(str::parse).collect::<Result<_, _>>();
        cores.map(Self).map_err(serde::de::Error::custom)
    }
}

/// The cores of the server, and those of everything else: publisher, Redis and clients.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Pins {
    pub server: Cores,
    pub swarm: Cores,
}

impl Pins {
    /// What was asked for; the rest by default: the server gets the first `first` cores, the swarm the
    /// others, and both get all where there are not more.
    ///
    /// # Errors
    /// When the kernel does not say which there are.
    pub fn choose(server: Option<Cores>, swarm: Option<Cores>, first: usize) -> Result<Self> {
        let all = Cores::all()?;
        let (left, right) = all.0.split_at(first.min(all.0.len()));
        let split = |part: &[usize]| {
            if left.is_empty() || right.is_empty() {
                all.clone()
            } else {
                Cores(part.to_vec())
            }
        };
        Ok(Self {
            server: server.unwrap_or_else(|| split(left)),
            swarm: swarm.unwrap_or_else(|| split(right)),
        })
    }

    /// Whether server and swarm share a core and so take time from each other.
    pub fn overlap(&self) -> bool {
        self.server.0.iter().any(|core| self.swarm.0.contains(core))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read_and_written() {
        let read = |text: &str| text.parse::<Cores>().map(|cores| cores.to_string());
        assert_eq!(read("0").unwrap(), "0");
        assert_eq!(read("3,0-1,1").unwrap(), "0,1,3");
        for bad in ["", "x", "2-1", "0-9999999", "-1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_started_pinned_stays_pinned_and_the_starter_goes_back() {
        let before = Cores::all().unwrap();
        let one = Cores(vec![before.list()[0]]);
        let inside = one
            .with(|| Ok(std::thread::spawn(|| Cores::all().unwrap())))
            .unwrap();
        assert_eq!(inside.join().unwrap(), one);
        assert_eq!(Cores::all().unwrap(), before);
    }

    #[test]
    fn the_swarm_gets_the_cores_that_the_server_does_not() {
        let chosen = Pins::choose(None, None, 1).unwrap();
        assert_eq!(chosen.overlap(), Cores::all().unwrap().list().len() < 2);
        let cores = |text: &str| Some(text.parse::<Cores>().unwrap());
        let same = Pins::choose(cores("0"), cores("0"), 1).unwrap();
        assert!(same.overlap());
    }
}
