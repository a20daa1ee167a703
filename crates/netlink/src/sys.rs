//! The socket calls, and the only unsafe code of this crate: thin, one call a function, no
//! knowledge of netlink beyond its address.

#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What one `recvmsg` brought.
pub(crate) struct Received {
    /// Length of the datagram, which is more than the buffer's when it was cut.
    pub(crate) length: usize,
    /// Whether it was cut to the buffer's length.
    pub(crate) truncated: bool,
    /// The sender's port: 0 is the kernel.
    pub(crate) sender: u32,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens and binds a netlink socket in this thread's network namespace; the kernel chooses the port.
pub(crate) fn open(protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: `fd` is open and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = kernel_address();
    let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: `address` is a sockaddr_nl of the length given and outlives the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(fd)
}

fn kernel_address() -> libc::sockaddr_nl {
    // SAFETY: sockaddr_nl is plain integers, for which zero is valid.
    let mut address: libc::sockaddr_nl = unsafe { zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address
}

/// Sets an integer option.
pub(crate) fn set_option(fd: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is an i32 of the length given and outlives the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length) })?;
    Ok(())
}

/// Reads an integer option.
pub(crate) fn option(fd: &OwnedFd, level: i32, option: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is an i32 of the length given, and both outlive the call.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length)
    })?;
    Ok(value)
}

/// Limits how long a receive waits.
pub(crate) fn set_receive_timeout(fd: &OwnedFd, seconds: u32) -> io::Result<()> {
    let timeout = libc::timeval { tv_sec: libc::time_t::from(seconds as i32), tv_usec: 0 };
    let length = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: `timeout` is a timeval of the length given and outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const timeout).cast(),
            length,
        )
    })?;
    Ok(())
}

/// Sends the slices to the kernel as one datagram.
pub(crate) fn send(fd: &OwnedFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut address = kernel_address();
    // SAFETY: msghdr is plain integers and pointers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = (&raw mut address).cast();
    header.msg_namelen = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    header.msg_iov = slices.as_ptr().cast_mut().cast();
    header.msg_iovlen = slices.len() as _;
    // SAFETY: IoSlice is ABI-compatible with iovec; address and slices outlive the call, which
    // only reads them.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives one datagram; `wait` false fails with `WouldBlock` when there is none.
pub(crate) fn receive(fd: &OwnedFd, buffer: &mut [u8], wait: bool) -> io::Result<Received> {
    let mut address = kernel_address();
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain integers and pointers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = (&raw mut address).cast();
    header.msg_namelen = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    let flags = libc::MSG_TRUNC | if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: address, slice and buffer outlive the call, and the lengths given are theirs.
    let length = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(Received { length, truncated: header.msg_flags & libc::MSG_TRUNC != 0, sender: address.nl_pid })
}

/// Opens a raw socket, which sees nothing that is sent; tables are asked about by it.
pub(crate) fn raw_socket(version: crate::IpVersion) -> io::Result<OwnedFd> {
    let family = i32::from(version.family());
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) })?;
    // SAFETY: `fd` is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads an option of the IP level that is a structure; the question stands in the buffer, too.
pub(crate) fn ask(fd: &OwnedFd, version: crate::IpVersion, option: i32, buffer: &mut [u8]) -> io::Result<()> {
    let level = match version {
        crate::IpVersion::V4 => libc::SOL_IP,
        crate::IpVersion::V6 => libc::SOL_IPV6,
    };
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: the buffer has the length given, and both outlive the call.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut length)
    })?;
    Ok(())
}
