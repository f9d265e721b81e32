"""VMX operation: the VMCS, and the processor in non-root mode, which turns events into VM exits by the controls."""
