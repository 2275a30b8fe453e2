"""The whole stack on a real libvirtd, spoken to through kubectl alone."""
