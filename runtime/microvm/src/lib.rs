//! A microVM on KVM: memory, vCPUs, boot, devices, jail.
