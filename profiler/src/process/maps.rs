//! Reads `/proc/PID/maps`, and never waits for long.
//!
//! Whoever changes a process's memory map holds its lock, and may wait for a disk or a swapped page
//! meanwhile: `ps` hangs on such processes. So a thread reads for us. One that gets no answer in time
//! is left behind, and its process is not asked again until it has one.

use std::{
    fs, io,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    thread,
    time::Duration,
};

use foldhash::HashMap;
use rustix::thread::gettid;

use super::{FileNumber, MapRow};
use crate::{privilege, target::Pid};

/// How long one process may take. Nobody empties the rings meanwhile.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often as long the thread may take that is not held up, and on a busy host gets no CPU.
const MOST_WAITS: u32 = 20;
/// Processes that may fail to answer at one time, after which no other is asked.
const MOST_SILENT: usize = 16;

type Rows = io::Result<Vec<MapRow>>;

/// Reads maps, one process after the other.
#[derive(Debug)]
pub(super) struct Reader {
    read: fn(Pid) -> Rows,
    patience: Duration,
    most_waits: u32,
    idle: Option<Worker>,
    /// Those that wait for a process.
    silent: HashMap<Pid, Worker>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new(read, PATIENCE, MOST_WAITS)
    }
}

impl Reader {
    fn new(read: fn(Pid) -> Rows, patience: Duration, most_waits: u32) -> Self {
        Self {
            read,
            patience,
            most_waits,
            idle: None,
            silent: HashMap::default(),
        }
    }

    /// The executable mappings of a process, by address.
    ///
    /// # Errors
    /// When the process is gone, may not be looked at, or does not answer.
    pub(super) fn read(&mut self, pid: Pid) -> Rows {
        // What those read in the end is of another time.
        self.silent.retain(|_, worker| worker.still_waits());
        if self.silent.contains_key(&pid) || self.silent.len() >= MOST_SILENT {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let worker = match self.idle.take() {
            Some(worker) => worker,
            None => Worker::start(self.read)?,
        };
        let gone = || io::Error::other("the thread that reads maps has ended");
        worker.asked.send(pid).map_err(|_| gone())?;
        match worker.answer(self.patience, self.most_waits) {
            Ok(rows) => {
                self.idle = Some(worker);
                rows
            }
            Err(RecvTimeoutError::Timeout) => {
                log::warn!(
                    "process {pid} does not let us read its memory map (somebody holds its lock): \
                     its stacks are cut until it does"
                );
                self.silent.insert(pid, worker);
                Err(io::ErrorKind::TimedOut.into())
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

/// A thread that reads.
#[derive(Debug)]
struct Worker {
    asked: Sender<Pid>,
    told: Receiver<Rows>,
    /// Where the kernel tells its state.
    stat: String,
}

impl Worker {
    fn start(read: fn(Pid) -> Rows) -> io::Result<Self> {
        let (asked, pids) = mpsc::channel();
        let (answers, told) = mpsc::channel();
        let (born, tid) = mpsc::channel();
        thread::Builder::new()
            .name("maps reader".to_owned())
            .spawn(move || {
                privilege::keep_only(privilege::READING);
                let _ = born.send(gettid());
                for pid in pids {
                    if answers.send(read(pid)).is_err() {
                        return;
                    }
                }
            })?;
        let tid = tid.recv().map_err(io::Error::other)?;
        let stat = format!("/proc/self/task/{}/stat", tid.as_raw_nonzero());
        Ok(Self { asked, told, stat })
    }

    /// What it read: waits this long, and again so many times while nothing holds it up.
    fn answer(&self, patience: Duration, mut waits: u32) -> Result<Rows, RecvTimeoutError> {
        loop {
            let answer = self.told.recv_timeout(patience);
            waits = waits.saturating_sub(1);
            if !matches!(answer, Err(RecvTimeoutError::Timeout)) || waits == 0 || self.is_held() {
                return answer;
            }
        }
    }

    /// Whether it waits in the kernel for what no signal ends, as for another's lock. Source: the
    /// third field, proc_pid_stat(5).
    fn is_held(&self) -> bool {
        let stat = fs::read_to_string(&self.stat).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with('D'))
    }

    fn still_waits(&self) -> bool {
        self.told.try_recv().err() == Some(TryRecvError::Empty)
    }
}

/// The executable mappings of a process, by address.
fn read(pid: Pid) -> Rows {
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

fn read_rows(path: &str) -> Rows {
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
    use std::sync::Mutex;

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
        let rows = Reader::default().read(Pid(std::process::id())).unwrap();
        assert!(rows.iter().any(|row| (row.start..row.end).contains(&here)));
    }

    /// Taken by who has process 1 not answer.
    static LOCK: Mutex<()> = Mutex::new(());

    fn read_but_for_process_1(pid: Pid) -> Rows {
        if pid == Pid(1) {
            drop(LOCK.lock());
        }
        Ok(Vec::new())
    }

    #[test]
    fn a_process_that_does_not_answer_is_left_alone_and_others_are_read() {
        let mut reader = Reader::new(read_but_for_process_1, Duration::from_millis(20), 1);
        let timed_out = |rows: Rows| rows.unwrap_err().kind() == io::ErrorKind::TimedOut;
        let held = LOCK.lock().unwrap();
        assert!(timed_out(reader.read(Pid(1))));
        // From now on nothing takes so long but a machine that is broken.
        reader.patience = Duration::from_secs(60);
        assert!(timed_out(reader.read(Pid(1))));
        assert_eq!(reader.silent.len(), 1);
        reader.read(Pid(2)).unwrap();
        drop(held);
        while reader.read(Pid(1)).is_err() {
            thread::yield_now();
        }
        assert!(reader.silent.is_empty());
    }
}
