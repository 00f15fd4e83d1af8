"""Scheduling, simulated: requests on LLM servers, jobs of many users on Spark, jobs on clusters."""
