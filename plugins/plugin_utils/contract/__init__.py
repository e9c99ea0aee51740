"""What a playbook is asked for: its variables, their types, and the nearest name to a mistyped one."""
