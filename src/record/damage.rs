//! What is damaged in a spool: the file is kept aside as it is, and what is good of it goes on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Of files that are kept aside: `SEGMENT-N.damaged`.
const KEPT: &str = "damaged";
/// Of a segment without its damage until it takes the place of the damaged one.
const HEALED: &str = "healed";
/// Files of one segment's number that are kept aside, each of a segment's size; more are only told.
const MAX_KEPT_FILES: usize = 16;

/// Copies a damaged segment beside it, under a name that no run before has taken. `None` when there are
/// too many already.
///
/// # Errors
/// When the disk refuses.
pub(super) fn keep_aside(segment: &Path) -> io::Result<Option<PathBuf>> {
    let stem = segment.file_stem().unwrap_or_default().to_string_lossy();
    let names = (0..MAX_KEPT_FILES).map(|n| segment.with_file_name(format!("{stem}-{n}.{KEPT}")));
    let Some(aside) = names.into_iter().find(|name| !name.exists()) else {
        return Ok(None);
    };
    let copied = fs::copy(segment, &aside).and_then(|_| File::open(&aside)?.sync_all());
    if let Err(why) = copied {
        // A part of it would be taken for the whole.
        let _ = fs::remove_file(&aside);
        return Err(why);
    }
    Ok(Some(aside))
}

/// Leaves the damaged places, and all from `end` on, out of a segment; the bytes that are left.
///
/// # Errors
/// When the disk refuses: then the segment is as it was.
pub(super) fn heal(segment: &Path, damages: &[Range<u64>], end: u64) -> io::Result<u64> {
    let all = fs::read(segment)?;
    let is_good = |at: usize| {
        let at = at as u64;
        at < end && !damages.iter().any(|damage| damage.contains(&at))
    };
    let bytes = all.iter().enumerate();
    let good: Vec<u8> = bytes
        .filter(|(at, _)| is_good(*at))
        .map(|(_, byte)| *byte)
        .collect();
    let healed = segment.with_extension(HEALED);
    let written = File::create(&healed).and_then(|mut file| {
        file.write_all(&good)?;
        file.sync_all()?;
        fs::rename(&healed, segment)?;
        File::open(segment.parent().unwrap_or(Path::new(".")))?.sync_all()
    });
    if written.is_err() {
        let _ = fs::remove_file(&healed);
    }
    written.map(|()| good.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::super::frame::frame;
    use super::super::spool::tests::{batch, drain};
    use super::super::spool::{LEAST_BYTES, Spool};
    use super::*;

    #[test]
    fn damage_costs_the_frame_it_hit() {
        let all: Vec<_> = (0..20).map(|n| batch(n * 1_000, 1_000)).collect();
        for is_opened_again in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let mut spool = Spool::open(folder.path(), LEAST_BYTES).unwrap();
            for batch in &all {
                assert!(spool.append(batch).unwrap());
            }
            let first = folder.path().join("000000000001.spool");
            let mut bytes = fs::read(&first).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&first, &bytes).unwrap();
            if is_opened_again {
                spool = Spool::open(folder.path(), LEAST_BYTES).unwrap();
                assert_eq!(spool.bars(), 19_000);
            }
            // It may be looked at again and again: while the database is away.
            for _ in 0..2 {
                spool.oldest(20_000).unwrap();
            }
            assert_eq!((spool.damaged(), spool.bars()), (1, 19_000));
            let rest = drain(&mut spool, 4_000);
            assert_eq!(rest.len(), 19);
            assert!(rest.iter().all(|batch| all.contains(batch)));
            let aside = folder.path().join("000000000001-0.damaged");
            assert_eq!(fs::read(aside).unwrap(), bytes);
            // It is told once.
            assert_eq!(
                Spool::open(folder.path(), LEAST_BYTES).unwrap().damaged(),
                0
            );
        }
    }

    /// Each byte in turn is flipped, in a spool that is opened again and in one that is open.
    #[test]
    fn no_flipped_byte_costs_more_than_its_frame() {
        let all: Vec<_> = (0..3).map(|n| batch(n * 10, 1)).collect();
        let frames: Vec<_> = all.iter().map(|batch| frame(batch).unwrap()).collect();
        let whole = frames.concat();
        let end = |n: usize| frames[..=n].concat().len();
        for at in 0..whole.len() {
            let hit = (0..3).find(|n| at < end(*n)).unwrap();
            let mut expected = all.clone();
            expected.remove(hit);
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("000000000001.spool");
            let open = || Spool::open(folder.path(), LEAST_BYTES).unwrap();
            fs::write(&path, &whole).unwrap();
            let mut spool = open();
            fs::write(&path, &bytes).unwrap();
            assert_eq!(drain(&mut spool, 1), expected, "byte {at}, while open");
            fs::write(&path, &bytes).unwrap();
            let mut spool = open();
            // It goes on behind them; each append waits for the disk.
            if at % 8 == 0 {
                assert!(spool.append(&all[hit]).unwrap());
                expected.push(all[hit].clone());
            }
            assert_eq!(drain(&mut spool, 1), expected, "byte {at}");
        }
    }
}
