//! The workload itself: two threads that divide their CPU time in known parts.

use std::{fs::File, hint::black_box, io, thread, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// One round of a thread takes this much CPU time. No multiple of a usual sampling period.
const ROUND: Duration = Duration::from_micros(36_700);

/// Burns CPU time on two threads until it is killed.
///
/// # Errors
/// When `/dev/zero` cannot be read.
pub fn run() -> io::Result<()> {
    let second = thread::Builder::new()
        .name("second".to_owned())
        .spawn(second_thread)?;
    first_thread(&File::open("/dev/zero")?)?;
    let _ = second.join();
    Ok(())
}

#[inline(never)]
fn first_thread(zero: &File) -> io::Result<()> {
    let mut late = [Duration::ZERO; 3];
    loop {
        late[0] = alpha(slice(0.5, late[0]));
        late[1] = beta(slice(0.3, late[1]));
        late[2] = reads(zero, slice(0.2, late[2]))?;
    }
}

#[inline(never)]
fn second_thread() {
    let mut late = [Duration::ZERO; 2];
    loop {
        late[0] = delta(slice(0.6, late[0]));
        late[1] = epsilon(slice(0.4, late[1]));
    }
}

/// A function's part of a round. How late it ended the last one is taken off: on a slow host, and on one
/// that takes the CPU away, that is a good part of a slice, and more of a short one.
fn slice(share: f64, late: Duration) -> Duration {
    ROUND.mul_f64(share).saturating_sub(late)
}

#[inline(never)]
fn alpha(slice: Duration) -> Duration {
    burn(slice, 3)
}

#[inline(never)]
fn beta(slice: Duration) -> Duration {
    let late = gamma(slice);
    // Work after the call, so that it is no jump.
    black_box(late)
}

#[inline(never)]
fn gamma(slice: Duration) -> Duration {
    burn(slice, 5)
}

/// Spends its time in the kernel.
#[inline(never)]
fn reads(zero: &File, slice: Duration) -> io::Result<Duration> {
    let mut buffer = [0; 16 << 10];
    let end = thread_time() + slice;
    while thread_time() < end {
        // A system call right here: libc's wrapper keeps no frame pointer. One between two looks at
        // the clock: on a slow host several would overrun the slice.
        rustix::io::read(zero, &mut buffer)?;
    }
    black_box(&buffer);
    Ok(thread_time().saturating_sub(end))
}

#[inline(never)]
fn delta(slice: Duration) -> Duration {
    burn(slice, 7)
}

#[inline(never)]
fn epsilon(slice: Duration) -> Duration {
    burn(slice, 11)
}

/// Computes until the thread's CPU clock has moved by `slice`; tells by how much it is late.
#[inline(always)]
fn burn(slice: Duration, seed: u64) -> Duration {
    let end = thread_time() + slice;
    let mut value = seed;
    while thread_time() < end {
        for i in 0..30_000_u64 {
            value = value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(i);
        }
        black_box(value);
    }
    thread_time().saturating_sub(end)
}

#[inline(always)]
fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
