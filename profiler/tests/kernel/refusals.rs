//! A kernel that refuses changes of maps, as it does when it has no memory for them: before the first
//! tick that is an error, later it costs the kernel side's walks and no sample.
//!
//! The calls are refused by a seccomp filter with a listener, from the moment a file is there.

use std::{fs, path::Path, process::Command};

use crate::{
    fixture::Fixture,
    folded::{Stack, percent},
    program::{Running, binary},
    recording::{Recorded, Recording},
    turn,
};

/// Runs a command whose changes of maps are refused for the types of maps that a file names, once it is
/// there; each refusal is a byte in another file. The listener's process is an orphan: the command does
/// not know of it, and it ends with the command.
///
/// Source of the numbers: `include/uapi/linux/seccomp.h`, `filter.h`, `bpf.h`, and the table of system
/// calls of x86-64: seccomp is 317, bpf is 321. Of bpf's calls 2 changes an element and names the map
/// in its first word; 26 changes a batch and names it after four addresses and a count.
const REFUSE: &str = "\
import array, ctypes, errno, fcntl, os, select, socket, struct, sys
refuse, refused, command = sys.argv[1], sys.argv[2], sys.argv[3:]
def type_of(notice):
    task, number, request = struct.unpack('=8xI20xQQ', notice[:48])
    with open(f'/proc/{task}/mem', 'rb', 0) as memory:
        memory.seek(request + (36 if number == 26 else 0))
        descriptor = struct.unpack('=I', memory.read(4))[0]
    with open(f'/proc/{task}/fdinfo/{descriptor}') as told:
        return next(line.split()[1] for line in told if line.startswith('map_type:'))
ours, theirs = socket.socketpair()
if os.fork() == 0:
    if os.fork() != 0: os._exit(0)
    theirs.close()
    nothing = os.open('/dev/null', os.O_RDWR)
    for stream in range(3): os.dup2(nothing, stream)
    listener = socket.recv_fds(ours, 1, 1)[1][0]
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while not any(event & select.POLLHUP for _, event in poll.poll()):
        notice = bytearray(80)
        try:
            fcntl.ioctl(listener, 0xc0502100, notice)
            error, flags = 0, 1
            if os.path.exists(refuse) and type_of(notice) in open(refuse).read().split():
                error, flags = -errno.ENOMEM, 0
                with open(refused, 'ab') as log: log.write(b'.')
            fcntl.ioctl(listener, 0xc0182101, notice[:8] + struct.pack('=qiI', 0, error, flags))
        except FileNotFoundError: pass
    os._exit(0)
ours.close()
os.wait()
code = [
    (0x20, 0, 0, 0), (0x15, 0, 4, 321),
    (0x20, 0, 0, 16), (0x15, 1, 0, 2), (0x15, 0, 1, 26),
    (0x06, 0, 0, 0x7fc00000), (0x06, 0, 0, 0x7fff0000),
]
steps = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *step) for step in code))
program = ctypes.create_string_buffer(struct.pack('=H6xQ', len(code), ctypes.addressof(steps)))
syscall = ctypes.CDLL(None, use_errno=True).syscall
listener = syscall(317, 1, 8, program)
if listener < 0: sys.exit('no seccomp filter: ' + os.strerror(ctypes.get_errno()))
socket.send_fds(theirs, [b'.'], [listener])
os.close(listener)
os.execv(command[0], command)
";

/// The types of all maps that we have.
const EVERY: &str = "1 2 3 6 12 27";

/// The binary, run so.
fn refused_once_there(refuse: &Path, refused: &Path) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", REFUSE]).args([refuse, refused]);
    command.arg(binary());
    command
}

fn refusals(refused: &Path) -> u64 {
    fs::metadata(refused).map_or(0, |log| log.len())
}

/// Types of maps: that of `PROCESSES`, and that of `CHUNKS`. Source: `enum bpf_map_type` in
/// `include/uapi/linux/bpf.h`.
const HASH: &str = "1";
const HASH_AND_ARRAY_OF_MAPS: &str = "1 12";

/// Records the whole host; changes of such maps are refused once it is sampled, and then a process of
/// known shares comes to be.
fn record_refused(types: &str) -> Recorded {
    let folder = tempfile::tempdir().unwrap();
    let [refuse, refused] = ["refuse", "refused"].map(|name| folder.path().join(name));
    let command = refused_once_there(&refuse, &refused);
    let mut recording = Recording::through(command, 499, Some(5.0));
    let mut running = recording.start();
    running.wait_until_sampling();
    fs::write(&refuse, types).unwrap();
    let fixture = Fixture::start("shares");
    let finished = running.finish();
    drop(fixture);
    assert!(
        refusals(&refused) > 0,
        "nothing was refused: {}",
        finished.stderr
    );
    let recorded = recording.take(finished);
    assert_eq!(recorded.receipt.lost, 0, "{:?}", recorded.receipt);
    recorded
}

/// Stacks of the process that came to be, and the part of them that is so, in percent.
#[track_caller]
fn part_of_its_stacks(recorded: &Recorded, is_so: impl Fn(&Stack) -> bool) -> f64 {
    let burns = ["alpha", "gamma", "delta"];
    let is_its = |stack: &Stack| burns.iter().any(|name| stack.has(name));
    let of_it = recorded.folded.count(is_its);
    assert!(of_it > 500, "{of_it}\n{}", recorded.folded.text());
    let so = recorded.folded.count(|stack| is_its(stack) && is_so(stack));
    percent(so, of_it)
}

#[test]
fn processes_that_the_kernel_side_may_not_know_are_walked_all_the_same() {
    let _turn = turn();
    let recorded = record_refused(HASH);
    let complete = part_of_its_stacks(&recorded, |stack| stack.calls(&["main", "run"]));
    assert!(complete >= 99.0, "{complete:.2} % {:?}", recorded.receipt);
}

#[test]
fn what_cannot_be_walked_without_table_memory_says_so() {
    let _turn = turn();
    let recorded = record_refused(HASH_AND_ARRAY_OF_MAPS);
    let told = part_of_its_stacks(&recorded, |stack| {
        stack.calls(&["main", "run"]) || stack.has("[cut: table memory full]")
    });
    assert!(told >= 99.0, "{told:.2} % {:?}", recorded.receipt);
}

#[test]
fn a_kernel_that_refuses_maps_from_the_start_is_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let [refuse, refused] = ["refuse", "refused"].map(|name| folder.path().join(name));
    fs::write(&refuse, EVERY).unwrap();
    let output = folder.path().join("cpu.pb.gz");
    let mut command = refused_once_there(&refuse, &refused);
    command.args(["-a", "-s", "1", "-o"]).arg(&output);
    let finished = Running::start(&mut command).finish();
    let stderr = &finished.stderr;
    assert_eq!(finished.code, Some(1), "{stderr}");
    assert!(refusals(&refused) > 0, "{stderr}");
    let errors = stderr.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{stderr}");
    assert!(
        stderr.contains("\n  why: ") && stderr.contains("\n  try: "),
        "{stderr}"
    );
    assert!(!output.exists());
}
