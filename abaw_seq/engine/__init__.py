"""What every training program needs: device, processes, schedules, optimiser step, checkpoints, provenance."""
