//! Reads `/proc/PID/maps`.

use std::{fs, io};

use super::{FileNumber, MapRow};
use crate::target::Pid;

/// The executable mappings of a process, by address.
///
/// # Errors
/// When the process is gone or may not be looked at.
pub(super) fn read(pid: Pid) -> io::Result<Vec<MapRow>> {
    let rows = read_rows(&format!("/proc/{pid}/maps"))?;
    if !rows.is_empty() {
        return Ok(rows);
    }
    // The first thread has ended and the others go on: theirs are the process's mappings.
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    let others =
        threads.filter_map(|thread| read_rows(&thread.path().join("maps").to_string_lossy()).ok());
    Ok(others
        .into_iter()
        .find(|rows| !rows.is_empty())
        .unwrap_or_default())
}

fn read_rows(path: &str) -> io::Result<Vec<MapRow>> {
    // Paths may hold any bytes.
    let text = fs::read(path)?;
    Ok(parse_maps(&String::from_utf8_lossy(&text)).collect())
}

/// The executable mappings in the text of a maps file. Source: `proc_pid_maps(5)`.
pub fn parse_maps(text: &str) -> impl Iterator<Item = MapRow> + '_ {
    text.lines().filter_map(parse_row)
}

fn parse_row(line: &str) -> Option<MapRow> {
    let mut rest = line;
    let mut field = || {
        let (field, after) = rest
            .trim_start_matches(' ')
            .split_once(' ')
            .unwrap_or((rest.trim_start_matches(' '), ""));
        rest = after;
        field
    };
    let (start, end) = field().split_once('-')?;
    let (start, end) = (
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
    );
    let is_executable = field().as_bytes().get(2) == Some(&b'x');
    let file_offset = u64::from_str_radix(field(), 16).ok()?;
    let (major, minor) = field().split_once(':')?;
    let (major, minor) = (
        u32::from_str_radix(major, 16).ok()?,
        u32::from_str_radix(minor, 16).ok()?,
    );
    let inode: u64 = field().parse().ok()?;
    if !is_executable {
        return None;
    }
    let path = unescape(rest.trim_start_matches(' '));
    let file = (inode != 0).then_some(FileNumber {
        major,
        minor,
        inode,
    });
    Some(MapRow {
        start,
        end,
        file_offset,
        file,
        path,
    })
}

/// The kernel writes a newline in a path as `\012`.
fn unescape(path: &str) -> String {
    path.replace("\\012", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_rows_are_read_with_odd_paths() {
        let text = "\
00400000-00401000 r--p 00000000 fe:00 1 /bin/x
00401000-00402000 r-xp 00001000 fe:00 123                              /bin/a b (deleted)
7f0000000000-7f0000001000 rwxp 00000000 00:00 0 
7fff0000-7fff1000 r-xp 00000000 00:00 0                                [vdso]
not a row
";
        let rows: Vec<MapRow> = parse_maps(text).collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].path, "/bin/a b (deleted)");
        assert_eq!(
            rows[0].file,
            Some(FileNumber {
                major: 0xfe,
                minor: 0,
                inode: 123
            })
        );
        assert_eq!(
            (rows[0].start, rows[0].end, rows[0].file_offset),
            (0x40_1000, 0x40_2000, 0x1000)
        );
        assert_eq!((rows[1].file, rows[1].path.as_str()), (None, ""));
        assert_eq!(rows[2].path, "[vdso]");
    }

    #[test]
    fn our_own_code_is_in_our_own_maps() {
        let here = our_own_code_is_in_our_own_maps as *const () as u64;
        let rows = read(Pid(std::process::id())).unwrap();
        assert!(rows.iter().any(|row| (row.start..row.end).contains(&here)));
    }
}
