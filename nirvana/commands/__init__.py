"""What each subcommand does: read its inputs, call the engine, write its outputs. Nothing heavy is imported early."""
