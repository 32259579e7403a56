"""Products for decoding on CPUs, in C++ that the machine's own compiler builds once; torch serves wherever it cannot."""
