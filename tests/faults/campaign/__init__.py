"""Campaign: load, faults and a checker that compares what producers were told with what every group did."""
