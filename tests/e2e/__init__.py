"""The whole stack on a real libvirtd, and on simulated vCenters, spoken to through kubectl alone."""
