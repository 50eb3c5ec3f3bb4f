"""The words of the page, explained."""

GLOSSARY = {
    "Joint": "Accuracy over the test images of all tasks together. The network must choose among all "
    "classes and is not told which task an image belongs to.",
    "Task A, task B": "Accuracy over the test images of one task alone, still choosing among all classes. "
    "A specialist for A knows nothing of B. Where every class has a name of its own it scores next to "
    "nothing on B, whose names it never learned; where the tasks share their names (0, 1, ...) it is "
    "right now and then, by accident.",
    "Within": "Accuracy over the images of one task where the network is told the task and chooses "
    "among that task's classes alone. An easier question, which some papers ask.",
    "Avg": "The mean of the accuracies of the tasks.",
    "Specialist (model A, model B)": "One of the trained networks that are merged. Each saw one task only.",
    "Merge": "One network of the specialists' size and architecture, made from their weights with "
    "unlabelled images alone.",
    "Merge of some": "A merge of some of the networks of its setting. Not ranked with merges of all.",
    "Several heads": "A partial merge: the networks share their first layers and keep an output of "
    "their own each. Larger than one network, so it is not ranked with the merges.",
    "Start": "The network that all specialists were fine-tuned from, where there is one.",
    "Larger network": "Made from the specialists' weights, with parts for each task or each input beside "
    "them. Not ranked with the merges, which are of one network's size.",
    "Permutation": "A new order of the hidden units of B, which leaves what B computes unchanged. A good "
    "one puts each unit of B in the place of the unit of A that it is most like, so that averaging "
    "makes sense.",
    "Soft, hard": "AutoFusion learns matrices that mix units: used as they are the merge is soft; rounded to "
    "the nearest real permutation it is hard.",
    "Gamma": "The weight of model A in a merge: 0 is B alone, 1 is A alone, 0.5 the middle.",
    "Average": "The mean of the networks' weights with nothing done to them first; where a setting has "
    "only aligned networks, the mean of those, and it says so.",
    "Teacher (ensemble)": "All specialists run on every image and one rule decides whom to believe. It "
    "costs all networks at every use; its answers are the pseudo-labels that merges learn from.",
    "Oracle": "All specialists are kept, and the task of each image is known: its own specialist answers. "
    "Nothing has to find out the task, so it is neither a teacher nor a rival: what the specialists can do.",
    "Pseudo-label": "A class that the teacher gives to an unlabelled image, in place of a true label.",
    "Control": "A simpler way to one network of the same size, from the same images and pseudo-labels: a "
    "fresh network, or one specialist taught further. A merge that does not beat it is worth nothing there. "
    "One that is no further away than the larger of the two spreads is level, and does not beat it.",
    "Reference": "A network that was given real labels: what would be possible, not a rival.",
    "± (spread)": "Standard deviation, over pairs of trained networks where there are several, else over "
    "repeats of the merge with other random numbers.",
    "Paper (a column)": "The number that the paper prints for the column before it.",
    "Learned": "How many numbers were fitted to data. Seconds is the time that took.",
    "Epoch": "One pass of the learning over all unlabelled images.",
}
