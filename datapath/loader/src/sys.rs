//! The few bpf(2) commands that aya 0.14 does not offer: what a tcx link is attached to, and reading a hash map in
//! batches.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

// enum bpf_cmd, include/uapi/linux/bpf.h
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// `BPF_LINK_TYPE_CGROUP`.
const LINK_TYPE_CGROUP: u32 = 3;

/// `BPF_LINK_TYPE_XDP`.
const LINK_TYPE_XDP: u32 = 6;
/// `BPF_LINK_TYPE_TCX`.
const LINK_TYPE_TCX: u32 = 11;
/// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`.
pub(crate) const TCX_INGRESS: u32 = 46;
pub(crate) const TCX_EGRESS: u32 = 47;

/// `SO_NETNS_COOKIE`, Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Cookie of this thread's network namespace, as programs see it.
///
/// # Errors
/// When the kernel has no cookies, or no memory.
pub fn network_namespace() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv6Addr::LOCALHOST, 0))
        .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)))?;
    let mut cookie = 0u64;
    let mut size = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the socket is open, and the option is a 64-bit number, for which there is room.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut size,
        )
    };
    if failed == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Calls bpf(2).
///
/// # Safety
/// `attr` must be the layout of `command`, and the pointers in it valid for what the command reads and writes.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is live for the call and its size is told; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[repr(C)]
#[derive(Default)]
struct ObjGetAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Opens a pinned object of whatever kind.
pub(crate) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjGetAttr {
        pathname: path.as_ptr() as u64,
        ..ObjGetAttr::default()
    };
    // SAFETY: this is the layout of BPF_OBJ_GET, and the path is a terminated string that outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` as far as tcx links go, padded to what the kernel may write (6.18: 56 bytes).
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    _hole: u32,
    ifindex: u32,
    attach_type: u32,
    _rest: [u64; 8],
}

/// `struct bpf_link_info` as far as cgroup links go, padded likewise.
#[repr(C)]
#[derive(Default)]
struct CgroupLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    _hole: u32,
    cgroup: u64,
    attach_type: u32,
    _hole2: u32,
    _rest: [u64; 7],
}

/// What a cgroup link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CgroupLink {
    /// The program it runs.
    pub(crate) program: u32,
    /// Inode of the cgroup; 0 when it is gone.
    pub(crate) cgroup: u64,
}

/// Whether a descriptor is one of a link: the commands for links answer for maps and programs with other layouts.
fn is_link(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let target = target.as_os_str().as_bytes();
    Ok(target.starts_with(b"anon_inode:bpf_link") || target.starts_with(b"anon_inode:bpf-link"))
}

/// Asks the kernel what a link is. `Ok(None)`: not a cgroup link.
pub(crate) fn cgroup_link(fd: BorrowedFd<'_>) -> io::Result<Option<CgroupLink>> {
    if !is_link(fd)? {
        return Ok(None);
    }
    let mut info = CgroupLinkInfo::default();
    let mut attr = InfoAttr {
        bpf_fd: fd.as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<CgroupLinkInfo>()).map_err(io::Error::other)?,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: as in `tcx_link`.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok((info.kind == LINK_TYPE_CGROUP).then_some(CgroupLink {
        program: info.prog_id,
        cgroup: info.cgroup,
    }))
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Has a link run another program from now on.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_raw_fd().cast_unsigned(),
        ..LinkUpdateAttr::default()
    };
    // SAFETY: this is the layout of BPF_LINK_UPDATE, without pointers.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(|_| ())
}

/// What a tcx link is; of a link of XDP, too, as far as it has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcxLink {
    pub(crate) id: u32,
    /// The program it runs.
    pub(crate) program: u32,
    /// 0 when the device is gone.
    pub(crate) ifindex: u32,
    /// [`TCX_INGRESS`] or [`TCX_EGRESS`].
    pub(crate) attach_type: u32,
}

/// Asks the kernel what a link is. `Ok(None)`: a link, but not a tcx one.
pub(crate) fn tcx_link(fd: BorrowedFd<'_>) -> io::Result<Option<TcxLink>> {
    device_link(fd, LINK_TYPE_TCX)
}

/// Asks the kernel what a link is. `Ok(None)`: a link, but not one of XDP. The attach type means nothing.
pub(crate) fn xdp_link(fd: BorrowedFd<'_>) -> io::Result<Option<TcxLink>> {
    device_link(fd, LINK_TYPE_XDP)
}

fn device_link(fd: BorrowedFd<'_>, wanted: u32) -> io::Result<Option<TcxLink>> {
    if !is_link(fd)? {
        return Ok(None);
    }
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        bpf_fd: fd.as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: this is the layout of BPF_OBJ_GET_INFO_BY_FD; the kernel writes at most `info_len` bytes to `info`,
    // which is that large and plain integers throughout.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let LinkInfo {
        kind,
        id,
        prog_id,
        ifindex,
        attach_type,
        ..
    } = info;
    Ok((kind == wanted).then_some(TcxLink {
        id,
        program: prog_id,
        ifindex,
        attach_type,
    }))
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Where a batched read goes on. Hash maps use four bytes (the bucket), other maps a key; keys of ours fit.
#[derive(Clone, Copy, Default)]
struct Position(#[expect(dead_code, reason = "only the kernel reads and writes it")] [u64; 8]);

/// Reads all entries of a hash map, some at a time. Entries may be deleted meanwhile; new ones may be missed, none
/// that stays is.
pub(crate) struct BatchReader<'a> {
    map: BorrowedFd<'a>,
    key_size: usize,
    value_size: usize,
    position: Option<Position>,
    finished: bool,
    /// Upper bound of a batch, entries.
    max: usize,
    pub(crate) keys: Vec<u8>,
    pub(crate) values: Vec<u8>,
}

impl<'a> BatchReader<'a> {
    /// Of a hash map with entries of these sizes; `batch` is how many entries to read at a time, `max` how many the
    /// map can have.
    pub(crate) fn new(
        map: BorrowedFd<'a>,
        key_size: usize,
        value_size: usize,
        batch: usize,
        max: usize,
    ) -> Self {
        let batch = batch.clamp(1, max.max(1));
        Self {
            map,
            key_size,
            value_size,
            position: None,
            finished: false,
            max: max.max(1),
            keys: vec![0; batch * key_size],
            values: vec![0; batch * value_size],
        }
    }

    /// Reads no further.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }

    /// Reads the next entries into `keys` and `values` and returns how many; 0 at the end.
    pub(crate) fn next_batch(&mut self) -> io::Result<usize> {
        while !self.finished {
            let capacity = self.keys.len() / self.key_size;
            let mut next = Position::default();
            let mut attr = BatchAttr {
                in_batch: self
                    .position
                    .as_ref()
                    .map_or(0, |position| std::ptr::from_ref(position) as u64),
                out_batch: std::ptr::from_mut(&mut next) as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: u32::try_from(capacity).map_err(io::Error::other)?,
                map_fd: self.map.as_fd().as_raw_fd().cast_unsigned(),
                ..BatchAttr::default()
            };
            // SAFETY: this is the layout of BPF_MAP_LOOKUP_BATCH. The kernel writes at most `count` keys and values,
            // for which the buffers have room as the sizes are the map's, and a position of at most a key's length.
            let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
            self.position = Some(next);
            match result {
                Ok(_) => {}
                // The end; `count` entries came before it.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.finished = true,
                // One bucket alone has more entries than there is room: nothing was read.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && capacity < self.max => {
                    let larger = (capacity * 2).min(self.max);
                    self.keys.resize(larger * self.key_size, 0);
                    self.values.resize(larger * self.value_size, 0);
                    continue;
                }
                Err(error) => return Err(error),
            }
            if attr.count > 0 {
                return Ok(attr.count as usize);
            }
        }
        Ok(0)
    }
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    _rest: [u8; 160],
}

/// Name of a device's driver.
pub(crate) fn driver(device: &std::ffi::CStr) -> io::Result<String> {
    /// `ETHTOOL_GDRVINFO`.
    const GET_DRIVER: u32 = 3;
    let socket = std::net::UdpSocket::bind((std::net::Ipv6Addr::LOCALHOST, 0))
        .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)))?;
    let mut info = DriverInfo {
        command: GET_DRIVER,
        driver: [0; 32],
        _rest: [0; 160],
    };
    // SAFETY: all integers and a pointer; zero is valid for each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(device.to_bytes())
    {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut info).cast();
    // SAFETY: the request names a device and points to a live structure of the size that this command fills (196 bytes).
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    let name = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}
