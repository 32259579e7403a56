"""What runs inside the sandbox: plain files for a bare interpreter, which cannot import polytask."""
