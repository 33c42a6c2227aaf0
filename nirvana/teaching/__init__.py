"""Material for a class: experiments whose observation is checked, exercises, and a guided tour."""
