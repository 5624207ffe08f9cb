"""Whose rights a process has: users and groups, by name or number.

Knows: the databases of users and groups, setuid(2) and its kin.
Must not know: when a process gives its rights up.
Invariant: what is given up is given up for good: real, effective and saved ids, and the supplementary groups.
"""

from __future__ import annotations

import os


class Identity:
    """A user and a group to serve as; None where they stay what they are. Raises ValueError for names unknown."""

    def __init__(self, user: str | None, group: str | None) -> None:
        self.uid: int | None = None
        self.gid: int | None = None
        self._login: str | None = None
        if user is not None:
            import pwd

            try:
                found = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
                self.uid, self.gid, self._login = found.pw_uid, found.pw_gid, found.pw_name
            except KeyError:
                if not user.isdigit():
                    raise ValueError(f"user: there is no user {user!r}; give the name or number of one") from None
                self.uid = int(user)
        if group is not None:
            import grp

            try:
                self.gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
            except KeyError:
                raise ValueError(f"group: there is no group {group!r}; give the name or number of one") from None

    def check(self) -> None:
        """Raises PermissionError where this process may not become it."""
        if os.geteuid() != 0 and (self.uid not in (None, os.geteuid()) or self.gid not in (None, os.getegid())):
            raise PermissionError(
                "only root can serve as another user or group: start as root, or leave --user and --group out"
            )

    def own(self, path: str) -> None:
        """Gives it a file, such as a socket's."""
        os.chown(path, -1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid)

    def assume(self) -> None:
        """This process is it from now on."""
        if os.geteuid() == 0 and (self.uid, self.gid) != (None, None):
            if self._login is not None and self.gid is not None:
                os.initgroups(self._login, self.gid)
            else:
                os.setgroups([] if self.gid is None else [self.gid])
        if self.gid is not None:
            os.setresgid(self.gid, self.gid, self.gid)
        if self.uid is not None:
            os.setresuid(self.uid, self.uid, self.uid)
