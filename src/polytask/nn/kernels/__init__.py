"""Products for decoding on CPUs, in C++ that the machine's compiler builds once; torch serves wherever it cannot."""
