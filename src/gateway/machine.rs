//! What memory this process may use: that of the machine, or less where its cgroup says so.

use std::fs;
use std::path::Path;

/// Assumed where the system tells nothing, in bytes: as much as the smallest machine that would do.
const UNKNOWN_MEMORY: u64 = 1 << 30;
/// The part of it that the past of topics may take; the rest is for clients and for what waits.
const HISTORY_PART: u64 = 4;

/// A quarter of what this process may use, in bytes.
pub fn history_bytes() -> usize {
    let bytes = memory(Path::new("/")).unwrap_or(UNKNOWN_MEMORY) / HISTORY_PART;
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The smallest bound of machine and cgroups (both versions, with all that are around ours), in bytes; `root`
/// is where `/proc` and `/sys` are.
fn memory(root: &Path) -> Option<u64> {
    let machine = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let machine = machine.lines().find_map(|line| {
        let kilobytes = line.strip_prefix("MemTotal:")?.split_whitespace().next()?;
        Some(kilobytes.parse::<u64>().ok()? * 1_024)
    });
    let cgroups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let cgroups = cgroups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        let (base, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let group = Path::new(group.trim_start_matches('/'));
        // A container may see its own group as the root, or not find it under its name.
        let bounds = group.ancestors().filter_map(|group| {
            let text = fs::read_to_string(root.join(base).join(group).join(file)).ok()?;
            // "max" where there is none.
            text.trim().parse::<u64>().ok()
        });
        bounds.min()
    });
    cgroups.chain(machine).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files in it.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn the_smallest_bound_counts() {
        let meminfo = ("proc/meminfo", "MemFree: 1 kB\nMemTotal:  2048 kB\n");
        let total = 2_048 * 1_024;
        let of = |files: &[(&str, &str)]| memory(system(files).path());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[meminfo]), Some(total));
        let second = ("proc/self/cgroup", "0::/a/b\n");
        let max = |text| ("sys/fs/cgroup/a/b/memory.max", text);
        assert_eq!(of(&[meminfo, second, max("1000\n")]), Some(1_000));
        assert_eq!(of(&[meminfo, second, max("max\n")]), Some(total));
        let around = ("sys/fs/cgroup/a/memory.max", "900\n");
        assert_eq!(of(&[meminfo, second, max("1000\n"), around]), Some(900));
        let own = ("sys/fs/cgroup/memory.max", "800\n");
        assert_eq!(
            of(&[meminfo, ("proc/self/cgroup", "0::/\n"), own]),
            Some(800)
        );
        let first = ("proc/self/cgroup", "5:cpu:/x\n4:cpuset,memory:/c\n");
        let limit = |text| ("sys/fs/cgroup/memory/c/memory.limit_in_bytes", text);
        assert_eq!(of(&[meminfo, first, limit("700\n")]), Some(700));
        // What version 1 says when there is no bound.
        assert_eq!(
            of(&[meminfo, first, limit("9223372036854771712\n")]),
            Some(total)
        );
        assert!(history_bytes() > 0);
    }
}
