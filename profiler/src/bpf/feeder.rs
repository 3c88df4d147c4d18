//! Puts chunks into the map of chunks, on a thread of its own.
//!
//! The kernel makes whoever changes a map of maps wait until every program that could have read the
//! old entry has ended: an RCU grace period, some 10 ms on an idle host, seconds on one whose CPUs
//! stay in the kernel. The thread that empties the rings must not wait so long. So chunks are put
//! in aside, as many at once as there are, and a table is published once its chunks are there.
//! Source: `maybe_wait_bpf_programs` in the kernel's `kernel/bpf/syscall.c`.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use aya::maps::MapData;

/// Source: `enum bpf_cmd` in `include/uapi/linux/bpf.h`; the second from 5.6 on, for maps of maps from
/// 5.14 on.
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// Chunks on their way into the kernel's map.
pub(super) struct Feeder {
    shared: Arc<Shared>,
}

struct Shared {
    outer: MapData,
    state: Mutex<State>,
    /// Notified when more chunks are there, and when none will be.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What is to be put in, in order.
    waiting: Vec<OwnedFd>,
    /// How many chunks are in the map: the first ones.
    there: u32,
    has_thread: bool,
    /// Nothing more gets in.
    has_failed: bool,
}

impl Feeder {
    /// Of the map of chunks, with none in it.
    pub(super) fn new(outer: MapData) -> Self {
        Self {
            shared: Arc::new(Shared {
                outer,
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
        }
    }

    /// Has the next chunk put in.
    ///
    /// # Errors
    /// When an earlier one was refused, or there is no descriptor or thread for it.
    pub(super) fn push(&self, chunk: BorrowedFd<'_>) -> io::Result<()> {
        let chunk = chunk.try_clone_to_owned()?;
        let mut state = self.shared.state();
        if state.has_failed {
            return Err(io::Error::other("an earlier chunk was refused"));
        }
        state.waiting.push(chunk);
        if !state.has_thread {
            // It ends when it has nothing to do: then it has no rights that were given up meanwhile.
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name("chunks".to_owned());
            state.has_thread = thread.spawn(move || shared.work()).is_ok();
            if !state.has_thread {
                state.has_failed = true;
                return Err(io::Error::other("no thread could be started"));
            }
        }
        Ok(())
    }

    /// How many chunks are there, from the first on.
    pub(super) fn there(&self) -> u32 {
        self.shared.state().there
    }

    /// Whether chunks are on their way. None is once one was refused.
    pub(super) fn is_busy(&self) -> bool {
        self.shared.state().has_thread
    }

    /// Waits until all chunks are there, for so long at most.
    pub(super) fn wait(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.state();
        while state.has_thread {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.state();
        while !state.waiting.is_empty() && !state.has_failed {
            let (first, chunks) = (state.there, mem::take(&mut state.waiting));
            drop(state);
            let put = put(self.outer.fd().as_fd(), first, &chunks);
            state = self.state();
            match put {
                Ok(count) => state.there += count,
                Err(error) => {
                    log::debug!("chunk {first} is refused: {error}");
                    state.has_failed = true;
                }
            }
            self.changed.notify_all();
        }
        state.has_thread = false;
        self.changed.notify_all();
    }
}

/// Puts chunks in, from a number on; tells how many.
fn put(outer: BorrowedFd<'_>, first: u32, chunks: &[OwnedFd]) -> io::Result<u32> {
    let count = u32::try_from(chunks.len()).map_err(io::Error::other)?;
    let keys: Vec<u32> = (first..first + count).collect();
    let values: Vec<RawFd> = chunks.iter().map(AsRawFd::as_raw_fd).collect();
    if count > 1 && put_at_once(outer, &keys, &values).is_ok() {
        return Ok(count);
    }
    for (key, value) in keys.iter().zip(&values) {
        put_one(outer, *key, *value)?;
    }
    Ok(count)
}

/// Source of the layout: `union bpf_attr` in `include/uapi/linux/bpf.h`.
#[repr(C)]
struct BatchRequest {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

fn put_at_once(outer: BorrowedFd<'_>, keys: &[u32], values: &[RawFd]) -> io::Result<()> {
    let mut request = BatchRequest {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len()).map_err(io::Error::other)?,
        map_fd: number_of(outer),
        element_flags: 0,
        flags: 0,
    };
    call(BPF_MAP_UPDATE_BATCH, &mut request)
}

/// Source of the layout: as above.
#[repr(C)]
struct ElementRequest {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn put_one(outer: BorrowedFd<'_>, key: u32, value: RawFd) -> io::Result<()> {
    let mut request = ElementRequest {
        map_fd: number_of(outer),
        _pad: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    call(BPF_MAP_UPDATE_ELEM, &mut request)
}

fn number_of(map: BorrowedFd<'_>) -> u32 {
    u32::try_from(map.as_raw_fd()).expect("a descriptor that is open is not negative")
}

/// Asks the kernel for something by a request of the form that this command has.
fn call<T>(command: libc::c_long, request: &mut T) -> io::Result<()> {
    // SAFETY: the kernel reads a request of this size; the callers fill it with addresses of keys and
    // values of the map's sizes that live long enough. For a batch it writes the count back.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(request),
            size_of::<T>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
