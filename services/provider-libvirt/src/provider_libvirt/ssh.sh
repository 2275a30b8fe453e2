#!/bin/sh
# What libvirt runs to reach a host by SSH, through a link that stands beside one to the file of known hosts: libvirt
# has no parameter for these, only one for the command, without arguments. The folder of the links may be on a file
# system that nothing is executed from.
#
# Nor does libvirt take more than 1 KiB of what ssh complains about, and it then tells nothing of it; the warning of a
# changed host key alone is longer. The reason is in the last lines. And it asks for that only when it reads: when ssh
# has ended before libvirt's first write, that fails and nothing else is told. So the line stays open for that write.
hosts="UserKnownHostsFile=$(dirname "$0")/known_hosts"
{ ssh -o "$hosts" -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes "$@" 2>&1 >&3 3>&- | tail -n 2 >&2; } 3>&1 >&2
timeout 1 head -c 1 >/dev/null
