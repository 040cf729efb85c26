//! A ring buffer of the kernel, and a program that fills it with records as fast as it can. The program is run by
//! `BPF_PROG_TEST_RUN`, which needs neither kprobes nor a connect().

use std::{
    ffi::{c_long, c_void},
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, RingBuf};
use connect_trace_common::ConnectRecord;

/// Number of records in the array that the program copies from; a power of two, so that the program can take an index
/// modulo it.
const RECORDS: usize = 4_096;
/// Number of records that one run puts into the ring buffer, if there is room.
const A_RUN: u32 = 256;

/// The writing end of the ring buffer.
pub struct Filler {
    program: OwnedFd,
    next: u64,
    _maps: [OwnedFd; 2],
}

impl Filler {
    /// Creates a ring buffer of `bytes` (a power of two), and the program that fills it.
    ///
    /// # Errors
    /// If the kernel does not allow it, or privileges are missing.
    pub fn new(bytes: u32, records: &[ConnectRecord]) -> Result<(Self, RingBuf<MapData>)> {
        let all: Vec<u8> = records
            .iter()
            .cycle()
            .take(RECORDS)
            .flat_map(bytemuck::bytes_of)
            .copied()
            .collect();
        let ring = create_map(BPF_MAP_TYPE_RINGBUF, 0, 0, bytes).context("create a ring buffer")?;
        let array = create_map(BPF_MAP_TYPE_ARRAY, 4, all.len() as u32, 1)
            .context("create an array of records")?;
        let mut key = 0_u32;
        bpf(
            BPF_MAP_UPDATE_ELEM,
            &[
                array.as_raw_fd() as u64,
                (&raw mut key).addr() as u64,
                all.as_ptr().addr() as u64,
                0,
            ],
        )
        .context("put the records into the array")?;
        let program = load(&program(&ring, &array)).context("load the program")?;
        let map = MapData::from_fd(ring.try_clone()?).context("take the ring buffer")?;
        let records = RingBuf::try_from(Map::RingBuf(map)).context("map the ring buffer")?;
        let filler = Self {
            program,
            next: 0,
            _maps: [ring, array],
        };
        Ok((filler, records))
    }

    /// Puts up to `most` records into the ring buffer, and returns their number: fewer if it is full.
    ///
    /// # Errors
    /// If the kernel does not run the program.
    pub fn fill(&mut self, most: u64) -> Result<u64> {
        let mut filled = 0;
        while filled < most {
            let mut context = self.next;
            // prog_fd, retval; data; …; ctx_size_in; ctx_in.
            let mut attributes = [0; 9];
            attributes[0] = self.program.as_raw_fd() as u64;
            attributes[5] = size_of_val(&context) as u64;
            attributes[6] = (&raw mut context).addr() as u64;
            let returned = bpf_returning(BPF_PROG_TEST_RUN, &mut attributes)
                .map(|_| attributes[0] >> 32)
                .context("run the program")?;
            filled += returned;
            self.next += returned;
            if returned < A_RUN.into() {
                break;
            }
        }
        Ok(filled)
    }
}

const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_PROG_LOAD: c_long = 5;
const BPF_PROG_TEST_RUN: c_long = 10;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_RINGBUF: u32 = 27;
const BPF_PROG_TYPE_RAW_TRACEPOINT: u64 = 17;

fn create_map(kind: u32, key: u32, value: u32, entries: u32) -> io::Result<OwnedFd> {
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let descriptor = bpf(BPF_MAP_CREATE, &[pair(kind, key), pair(value, entries)])?;
    // SAFETY: the kernel has just created this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn load(program: &[u64]) -> Result<OwnedFd> {
    let mut log = vec![0_u8; 1 << 20];
    let loaded = bpf(
        BPF_PROG_LOAD,
        &[
            BPF_PROG_TYPE_RAW_TRACEPOINT | (program.len() as u64) << 32,
            program.as_ptr().addr() as u64,
            c"GPL".as_ptr().addr() as u64,
            1 | (log.len() as u64) << 32,
            log.as_mut_ptr().addr() as u64,
        ],
    );
    let descriptor = loaded.with_context(|| {
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(0);
        format!("the verifier: {}", String::from_utf8_lossy(&log[..end]))
    })?;
    // SAFETY: the kernel has just created this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Encodes one instruction: operation, registers, offset and immediate value.
const fn instruction(operation: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    operation as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset as u16 as u64) << 16
        | (value as u32 as u64) << 32
}

/// Returns a program that, from the index in its argument on, puts [`A_RUN`] records into the ring buffer without a
/// wakeup until the buffer is full, and returns their number.
fn program(ring: &OwnedFd, array: &OwnedFd) -> Vec<u64> {
    const NO_WAKEUP: i32 = 1;
    const RINGBUF_OUTPUT: i32 = 130;
    let (ring, array) = (ring.as_raw_fd(), array.as_raw_fd());
    let size = size_of::<ConnectRecord>() as i32;
    vec![
        instruction(0x79, 6, 1, 0, 0),                  // r6 = *(u64 *)r1
        instruction(0xb7, 7, 0, 0, 0),                  // r7 = 0
        instruction(0xbf, 8, 6, 0, 0),                  // again: r8 = r6
        instruction(0x0f, 8, 7, 0, 0),                  // r8 += r7
        instruction(0x57, 8, 0, 0, RECORDS as i32 - 1), // r8 &= RECORDS - 1
        instruction(0x27, 8, 0, 0, size),               // r8 *= size
        instruction(0x18, 2, 2, 0, array),              // r2 = the array's value
        instruction(0x00, 0, 0, 0, 0),                  //
        instruction(0x0f, 2, 8, 0, 0),                  // r2 += r8
        instruction(0x18, 1, 1, 0, ring),               // r1 = the ring buffer
        instruction(0x00, 0, 0, 0, 0),                  //
        instruction(0xb7, 3, 0, 0, size),               // r3 = size
        instruction(0xb7, 4, 0, 0, NO_WAKEUP),          // r4 = BPF_RB_NO_WAKEUP
        instruction(0x85, 0, 0, 0, RINGBUF_OUTPUT),     // r0 = bpf_ringbuf_output(r1, r2, r3, r4)
        instruction(0x55, 0, 0, 2, 0),                  // if r0 != 0 goto end
        instruction(0x07, 7, 0, 0, 1),                  // r7 += 1
        instruction(0xa5, 7, 0, -15, A_RUN as i32),     // if r7 < A_RUN goto again
        instruction(0xbf, 0, 7, 0, 0),                  // end: r0 = r7
        instruction(0x95, 0, 0, 0, 0),                  // exit
    ]
}

fn bpf(command: c_long, attributes: &[u64]) -> io::Result<i32> {
    bpf_returning(command, &mut attributes.to_vec())
}

/// Makes the system call with its `union bpf_attr` as words.
fn bpf_returning(command: c_long, attributes: &mut [u64]) -> io::Result<i32> {
    let pointer: *mut c_void = attributes.as_mut_ptr().cast();
    // SAFETY: the attributes have the given length, and the memory that they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of_val(attributes)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}
