"""VirtRigaud provider for libvirt/KVM."""
