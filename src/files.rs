//! The limit of open files, and what is kept of it for ourselves.

/// Files that no stranger may take: runtimes, the log, the bus with its readers, name look-ups, files of `/proc`.
/// Some 25 are in use.
pub const RESERVED_FILES: u64 = 32;

/// How many files may be open: the soft limit, raised to the hard one where that is allowed.
pub fn limit() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|why| {
        tracing::warn!(%why, "cannot raise the limit of open files");
        rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX)
    })
}

/// Up to `wanted` connections for a process that serves probes only: half of what is not kept for ourselves.
pub fn for_probes(wanted: usize) -> usize {
    let left = limit().saturating_sub(RESERVED_FILES) / 2;
    wanted
        .min(usize::try_from(left).unwrap_or(usize::MAX))
        .max(1)
}
