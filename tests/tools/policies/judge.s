// Go asks for a file of assembly where a function has no body, as one that is linked from elsewhere.
