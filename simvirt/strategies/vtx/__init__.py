"""VT-x: the guest runs in VMX non-root mode with the privilege it believes it has; a VMCS says what makes it exit."""
