//! The perf events under everything else: opening, enabling, reading, mapping.
//!
//! aya attaches programs to events but fixes their attributes and hides their counts; both matter
//! here. Source of the attributes: `perf_event_open(2)`.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr::NonNull,
};

use aya_obj::generated::perf_event_attr;

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_CPU_CLOCK: u64 = 0;
const PERF_COUNT_SW_DUMMY: u64 = 9;
const PERF_FORMAT_TOTAL_TIME_ENABLED: u64 = 1;
const PERF_SAMPLE_TID: u64 = 1 << 1;
const PERF_SAMPLE_TIME: u64 = 1 << 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_DISABLE: libc::c_ulong = 0x2401;
const PERF_EVENT_IOC_PERIOD: libc::c_ulong = 0x4008_2404;
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
/// The low 2 KiB of a perf ring's first page hold `perf_event_mmap_page`.
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;

/// What a clock does when its CPU is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdleTicks {
    /// It runs the program.
    Taken,
    /// It goes on, and runs nothing.
    LeftOut,
}

/// An open perf event on one CPU.
#[derive(Debug)]
pub(super) struct PerfEvent(File);

impl PerfEvent {
    /// A clock that ticks every `period_ns` on `cpu`, whatever runs there. Not yet enabled.
    pub(super) fn cpu_clock(cpu: u32, period_ns: u64, idle: IdleTicks) -> io::Result<Self> {
        let mut attr = attr(PERF_COUNT_SW_CPU_CLOCK);
        attr.__bindgen_anon_1.sample_period = period_ns;
        attr.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED;
        attr.set_disabled(1);
        attr.set_exclude_idle(u64::from(idle == IdleTicks::LeftOut));
        Self::open(&attr, cpu)
    }

    /// An event that never counts, but reports every executable mapping, exec, fork and exit on
    /// `cpu`, stamped with `CLOCK_MONOTONIC` as the samples are.
    pub(super) fn process_stream(cpu: u32, wakeup_bytes: u32) -> io::Result<Self> {
        let mut attr = attr(PERF_COUNT_SW_DUMMY);
        attr.sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_TIME;
        attr.__bindgen_anon_2.wakeup_watermark = wakeup_bytes;
        attr.clockid = libc::CLOCK_MONOTONIC;
        attr.set_use_clockid(1);
        attr.set_watermark(1);
        attr.set_sample_id_all(1);
        attr.set_mmap(1);
        attr.set_mmap2(1);
        attr.set_comm(1);
        attr.set_comm_exec(1);
        attr.set_task(1);
        Self::open(&attr, cpu)
    }

    fn open(attr: &perf_event_attr, cpu: u32) -> io::Result<Self> {
        let cpu = libc::c_int::try_from(cpu).map_err(io::Error::other)?;
        // SAFETY: `attr` is a valid attribute of the size it names; the kernel only reads it.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                attr,
                -1,
                cpu,
                -1,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just given us this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(File::from(fd)))
    }

    /// Has each tick run the program. Closing the event detaches it.
    pub(super) fn set_program(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.ioctl(PERF_EVENT_IOC_SET_BPF, program.as_raw_fd())
    }

    pub(super) fn enable(&self) -> io::Result<()> {
        self.ioctl(PERF_EVENT_IOC_ENABLE, 0)
    }

    pub(super) fn disable(&self) -> io::Result<()> {
        self.ioctl(PERF_EVENT_IOC_DISABLE, 0)
    }

    /// Has the clock tick every `period_ns` from the next [`Self::enable`] on, the first time one such
    /// period after it.
    pub(super) fn set_period(&self, period_ns: u64) -> io::Result<()> {
        // SAFETY: this request reads a number of 64 bits at the address, which lives long enough.
        let done = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                PERF_EVENT_IOC_PERIOD,
                &raw const period_ns,
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn ioctl(&self, request: libc::c_ulong, argument: libc::c_int) -> io::Result<()> {
        // SAFETY: these requests take an integer.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Nanoseconds for which the clock was enabled on its CPU.
    pub(super) fn enabled_ns(&self) -> io::Result<u64> {
        let mut reading = [0; 16];
        let length = (&self.0).read(&mut reading)?;
        if length < reading.len() {
            return Ok(0); // An event whose CPU has gone reads as the end of a file.
        }
        let mut word = [0; 8];
        word.copy_from_slice(&reading[8..]);
        Ok(u64::from_ne_bytes(word))
    }
}

impl AsFd for PerfEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn attr(config: u64) -> perf_event_attr {
    // SAFETY: plain old data, for which the kernel gives all zeroes a meaning.
    let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
    attr.type_ = PERF_TYPE_SOFTWARE;
    attr.size = u32::try_from(size_of::<perf_event_attr>()).expect("a struct of 144 bytes");
    attr.config = config;
    attr
}

/// Shared memory behind a descriptor, unmapped on drop.
#[derive(Debug)]
pub(super) struct SharedMemory {
    start: NonNull<u8>,
    bytes: usize,
}

impl SharedMemory {
    /// Maps `bytes` bytes, a multiple of the page size, for reading and writing.
    pub(super) fn map(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let access = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                access,
                rustix::mm::MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        let start =
            NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { start, bytes })
    }

    /// Writes words at a word's offset.
    pub(super) fn write_words(&self, first: usize, words: &[u32]) {
        assert!(
            (first + words.len()) * 4 <= self.bytes,
            "the allocator keeps within the chunk"
        );
        for (i, word) in words.iter().enumerate() {
            // SAFETY: within the mapping, by the assertion.
            let slot = unsafe { self.start.cast::<u32>().add(first + i) };
            // SAFETY: aligned, mapped and ours; the kernel side may read it meanwhile, but only
            // after it is published, and publishing is a system call.
            unsafe { slot.as_ptr().write_volatile(*word) };
        }
    }

    /// Writes one word after all that were written before it.
    pub(super) fn publish_word(&self, at: usize, word: u32) {
        assert!((at + 1) * 4 <= self.bytes, "a word of the mapping");
        // SAFETY: within the mapping, by the assertion.
        let slot = unsafe { self.start.cast::<u32>().add(at) };
        // SAFETY: aligned, and mapped for as long as `self` lives; the kernel side only reads it.
        let slot = unsafe { std::sync::atomic::AtomicU32::from_ptr(slot.as_ptr()) };
        slot.store(word, std::sync::atomic::Ordering::Release);
    }

    /// The words of a chunk. Only the user side writes to them, through `&mut` of what owns them.
    pub(super) fn as_chunk(&self) -> &profiler_common::mapping::Chunk {
        assert!(
            size_of::<profiler_common::mapping::Chunk>() <= self.bytes,
            "the mapping of a chunk"
        );
        // SAFETY: mapped and large enough, aligned to a page, and any word is valid.
        unsafe { self.start.cast().as_ref() }
    }

    fn atomic(&self, offset: usize) -> &std::sync::atomic::AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && offset + 8 <= self.bytes,
            "an aligned word of the mapping"
        );
        // SAFETY: within the mapping, by the assertion.
        let word = unsafe { self.start.add(offset) };
        // SAFETY: aligned, mapped as long as `self`, and shared with the kernel as an atomic.
        unsafe { std::sync::atomic::AtomicU64::from_ptr(word.as_ptr().cast()) }
    }

    fn bytes(&self, offset: usize, length: usize) -> &[u8] {
        assert!(offset + length <= self.bytes, "within the mapping");
        // SAFETY: within the mapping, by the assertion.
        let start = unsafe { self.start.add(offset) };
        // SAFETY: mapped as long as `self`; the kernel writes only where we have not yet to read.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), length) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

// SAFETY: the memory belongs to `self` alone, on whichever thread it is.
unsafe impl Send for SharedMemory {}

/// The ring of records behind a [`PerfEvent::process_stream`].
#[derive(Debug)]
pub(super) struct PerfRing {
    event: PerfEvent,
    memory: SharedMemory,
    data_offset: usize,
    data_bytes: usize,
}

impl PerfRing {
    /// Opens the stream of `cpu` with a ring of `pages` pages (a power of two).
    pub(super) fn open(cpu: u32, pages: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let data_bytes = page * pages;
        let wakeup_bytes = u32::try_from(data_bytes / 2).map_err(io::Error::other)?;
        let event = PerfEvent::process_stream(cpu, wakeup_bytes)?;
        let memory = SharedMemory::map(event.as_fd(), page + data_bytes)?;
        Ok(Self {
            event,
            memory,
            data_offset: page,
            data_bytes,
        })
    }

    pub(super) fn enable(&self) -> io::Result<()> {
        self.event.enable()
    }

    pub(super) fn disable(&self) -> io::Result<()> {
        self.event.disable()
    }

    /// Hands each whole record, its 8-byte header included, to `sink`.
    pub(super) fn drain(&mut self, mut sink: impl FnMut(&[u8])) {
        use std::sync::atomic::Ordering;
        let head = self.memory.atomic(DATA_HEAD).load(Ordering::Acquire);
        let mut tail = self.memory.atomic(DATA_TAIL).load(Ordering::Relaxed);
        let mut record = Vec::with_capacity(256);
        while tail < head {
            record.clear();
            self.copy(tail, 8, &mut record);
            let length = usize::from(u16::from_ne_bytes([record[6], record[7]]));
            if length < 8 {
                tail = head; // Never seen; a record without a length cannot be stepped over.
                break;
            }
            self.copy(tail + 8, length - 8, &mut record);
            sink(&record);
            tail += length as u64;
        }
        self.memory.atomic(DATA_TAIL).store(tail, Ordering::Release);
    }

    fn copy(&self, at: u64, bytes: usize, out: &mut Vec<u8>) {
        let ring_bytes = self.data_bytes as u64;
        let offset = usize::try_from(at % ring_bytes).expect("less than the ring");
        let before_wrap = bytes.min(self.data_bytes - offset);
        out.extend_from_slice(self.memory.bytes(self.data_offset + offset, before_wrap));
        out.extend_from_slice(self.memory.bytes(self.data_offset, bytes - before_wrap));
    }
}

impl AsFd for PerfRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
