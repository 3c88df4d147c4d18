//! The stream of process events: forks, execs, new mappings and exits on every CPU.
//!
//! It needs no program of ours: perf events carry it. In: perf records. Out: [`ProcessEvent`].

use std::{io, os::fd::BorrowedFd};

use super::perf::PerfRing;
use crate::{
    process::{Change, FileNumber, MapRow, ProcessEvent},
    target::{Pid, Tid},
};

/// Ring size of one CPU, in pages: 512 KiB hold some four thousand records. As much as the kernel
/// lets users lock without CAP_IPC_LOCK (`kernel.perf_event_mlock_kb`).
const RING_PAGES: usize = 128;
/// Where even that is refused.
const SMALL_RING_PAGES: usize = 16;

const PERF_RECORD_LOST: u32 = 2;
const PERF_RECORD_COMM: u32 = 3;
const PERF_RECORD_EXIT: u32 = 4;
const PERF_RECORD_FORK: u32 = 7;
const PERF_RECORD_MMAP2: u32 = 10;
const PERF_RECORD_MISC_COMM_EXEC: u16 = 1 << 13;
/// `PROT_EXEC` in an MMAP2 record.
const PROT_EXEC: u32 = 4;
/// What `sample_id_all` puts at the end of each record: pid, tid, time.
const SAMPLE_ID_BYTES: usize = 16;

/// The process events of every CPU.
#[derive(Debug, Default)]
pub struct ProcessStream {
    rings: Vec<(u32, PerfRing)>,
}

impl ProcessStream {
    /// What the ring of one CPU takes, with the page before it, in KiB.
    pub const RING_KIB: u64 = (RING_PAGES as u64 + 1) * 4;
    /// What it takes where the kernel grants no more.
    pub const SMALL_RING_KIB: u64 = (SMALL_RING_PAGES as u64 + 1) * 4;

    /// Starts the stream on `cpu`.
    pub(super) fn add_cpu(&mut self, cpu: u32) -> io::Result<()> {
        let ring =
            PerfRing::open(cpu, RING_PAGES).or_else(|_| PerfRing::open(cpu, SMALL_RING_PAGES))?;
        self.rings.push((cpu, ring));
        Ok(())
    }

    pub(super) fn remove_cpu(&mut self, cpu: u32) {
        self.rings.retain(|(at, _)| *at != cpu);
    }

    /// Has the kernel report nothing, until [`Self::enable`].
    pub(super) fn disable(&self) {
        for (cpu, ring) in &self.rings {
            if let Err(error) = ring.disable() {
                log::debug!("CPU {cpu} goes on reporting: {error}");
            }
        }
    }

    /// Has the kernel report again.
    pub(super) fn enable(&self) {
        for (cpu, ring) in &self.rings {
            if let Err(error) = ring.enable() {
                log::debug!("CPU {cpu} does not report: {error}");
            }
        }
    }

    /// Takes the events since the last call, of all CPUs, in the order of time.
    pub fn drain(&mut self, events: &mut Vec<ProcessEvent>) {
        for (_, ring) in &mut self.rings {
            ring.drain(|record| events.extend(parse(record)));
        }
        events.sort_by_key(|event| event.time_ns);
    }

    /// Descriptors that become readable when a ring is half full.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.rings.iter().map(|(_, ring)| ring.as_fd())
    }
}

/// Reads one perf record. Source of the layout: `enum perf_event_type` in
/// `include/uapi/linux/perf_event.h`.
fn parse(record: &[u8]) -> Option<ProcessEvent> {
    let mut header = Reader(record);
    let kind = header.u32()?;
    let misc = header.u16()?;
    header.u16()?;
    let (body, id) = header
        .0
        .split_at_checked(header.0.len().checked_sub(SAMPLE_ID_BYTES)?)?;
    let time_ns = Reader(&id[8..]).u64()?;
    let mut body = Reader(body);
    let change = match kind {
        PERF_RECORD_LOST => {
            body.u64()?;
            Change::Lost(body.u64()?)
        }
        PERF_RECORD_COMM if misc & PERF_RECORD_MISC_COMM_EXEC != 0 => {
            let pid = Pid(body.u32()?);
            body.u32()?;
            Change::Exec {
                pid,
                comm: body.text(),
            }
        }
        PERF_RECORD_FORK => {
            let (pid, parent) = (Pid(body.u32()?), Pid(body.u32()?));
            Change::Fork { pid, parent }
        }
        PERF_RECORD_EXIT => {
            let pid = Pid(body.u32()?);
            body.u32()?;
            Change::Exit {
                pid,
                tid: Tid(body.u32()?),
            }
        }
        PERF_RECORD_MMAP2 => parse_mapping(&mut body)?,
        _ => return None,
    };
    Some(ProcessEvent { time_ns, change })
}

fn parse_mapping(body: &mut Reader<'_>) -> Option<Change> {
    let pid = Pid(body.u32()?);
    body.u32()?;
    let (start, length, file_offset) = (body.u64()?, body.u64()?, body.u64()?);
    let (major, minor, inode) = (body.u32()?, body.u32()?, body.u64()?);
    body.u64()?;
    let protection = body.u32()?;
    body.u32()?;
    if protection & PROT_EXEC == 0 {
        return None;
    }
    let file = (inode != 0).then_some(FileNumber {
        major,
        minor,
        inode,
    });
    // The kernel's names for memory without a file start with two slashes.
    let path = match body.text() {
        path if path.starts_with("//") => String::new(),
        path => path,
    };
    let row = MapRow {
        start,
        end: start.saturating_add(length),
        file_offset,
        file,
        path,
    };
    Some(Change::Map { pid, row })
}

/// Reads fields in native byte order, one after the other.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    /// The rest, up to the first NUL.
    fn text(&self) -> String {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(self.0.len());
        String::from_utf8_lossy(&self.0[..end]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, misc: u16, body: &[&[u8]], time_ns: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(misc.to_ne_bytes());
        bytes.extend([0, 0]);
        body.iter().for_each(|part| bytes.extend(*part));
        bytes.extend([0; 8]);
        bytes.extend(time_ns.to_ne_bytes());
        bytes
    }

    #[test]
    fn an_exec_is_a_comm_record_with_its_mark() {
        let body: [&[u8]; 3] = [&7_u32.to_ne_bytes(), &7_u32.to_ne_bytes(), b"cc1\0\0\0\0\0"];
        let exec = Change::Exec {
            pid: Pid(7),
            comm: "cc1".into(),
        };
        let marked = record(PERF_RECORD_COMM, PERF_RECORD_MISC_COMM_EXEC, &body, 99);
        assert_eq!(
            parse(&marked),
            Some(ProcessEvent {
                time_ns: 99,
                change: exec
            })
        );
        assert_eq!(parse(&record(PERF_RECORD_COMM, 0, &body, 99)), None);
    }

    #[test]
    fn a_mapping_has_its_file_and_range() {
        let words = |values: &[u64]| {
            values
                .iter()
                .flat_map(|value| value.to_ne_bytes())
                .collect::<Vec<u8>>()
        };
        let halves = |values: &[u32]| {
            values
                .iter()
                .flat_map(|value| value.to_ne_bytes())
                .collect::<Vec<u8>>()
        };
        let body = [
            halves(&[5, 5]),
            words(&[0x1000, 0x2000, 0x3000]),
            halves(&[8, 1]),
            words(&[42, 0]),
            halves(&[5, 2]),
            b"/lib/x.so\0\0\0\0\0\0\0".to_vec(),
        ];
        let parts: Vec<&[u8]> = body.iter().map(Vec::as_slice).collect();
        let event = parse(&record(PERF_RECORD_MMAP2, 0, &parts, 3)).unwrap();
        let row = MapRow {
            start: 0x1000,
            end: 0x3000,
            file_offset: 0x3000,
            file: Some(FileNumber {
                major: 8,
                minor: 1,
                inode: 42,
            }),
            path: "/lib/x.so".into(),
        };
        assert_eq!(event.change, Change::Map { pid: Pid(5), row });
    }

    #[test]
    fn a_cut_record_is_none() {
        let whole = record(PERF_RECORD_FORK, 0, &[&[1, 0, 0, 0]], 1);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None);
        }
    }
}
