"""What pgBackRest says about its repositories, and what can be restored from them. No I/O."""
