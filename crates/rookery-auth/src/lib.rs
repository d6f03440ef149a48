//! Who is asking: passwords and their verifiers, SASL mechanisms, throttling of guesses.
