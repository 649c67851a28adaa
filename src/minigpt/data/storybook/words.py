"""The words of the stories, in one list for each kind of role, so that every word of a list makes sense in its role.

`plain` returns words that have only the standard forms (see `word`); `table` adds other forms, one per column. Each word is
in one list only.
"""

from minigpt.data.storybook.engine import Word

SHE = {"he": "she", "him": "her", "his": "her", "himself": "herself", "child": "girl"}
HE = {"he": "he", "him": "him", "his": "his", "himself": "himself", "child": "boy"}


def word(text: str, **forms: str) -> Word:
    """Return a word and its forms: the word, the word with "a" or "an", the given forms, and all of them capitalized."""
    article = "an" if text[0] in "aeiouAEIOU" else "a"
    small = {"word": text, "a": f"{article} {text}", **forms}
    return Word({**small, **{name.capitalize(): form[:1].upper() + form[1:] for name, form in small.items()}})


def plain(text: str) -> tuple[Word, ...]:
    """Return the words of a text, which are separated by commas."""
    return tuple(word(" ".join(item.split())) for item in text.split(","))


def table(columns: str, rows: str) -> tuple[Word, ...]:
    """Return the words of a table: one per line, followed by its other forms, separated by `|` and named by `columns`."""
    names = columns.split()
    cells = ([cell.strip() for cell in row.split("|")] for row in rows.strip().splitlines())
    return tuple(word(first, **dict(zip(names, rest, strict=True))) for first, *rest in cells)


def people(girls: str, boys: str) -> tuple[Word, ...]:
    """Return names with their pronouns. `~` stands for a space inside a name."""
    named = [(name, SHE) for name in girls.split()] + [(name, HE) for name in boys.split()]
    return tuple(word(name.replace("~", " "), **pronouns) for name, pronouns in named)


WORDS: dict[str, tuple[Word, ...]] = {
    "child": people(
        girls="Lily Mia Anna Emma Zoe Ruby Nora Rosie Lucy Ella Ivy Maya Clara Molly Grace Tess Wendy Hana Lola Nina Sofia "
        "Amy Priya Kate",
        boys="Tim Ben Max Sam Tom Leo Jack Finn Noah Oscar Eli Theo Hugo Luca Milo Omar Adam Felix Henry Toby Ravi Jonas "
        "Kai Peter",
    ),
    "petname": people(
        girls="Poppy Honey Dot Pearl Clover Willow Bella Misty Peaches Tilly Hazel Luna",
        boys="Pip Bobo Fuzzy Rusty Otto Buddy Pepper Spike Biscuit Patch Barney Scout",
    ),
    "grownup": people(girls="Mom Grandma", boys="Dad Grandpa"),
    "neighbor": people(girls="Mrs.~Brown Mrs.~Green Miss~Lee Mrs.~Rose", boys="Mr.~Hill Mr.~Stone Mr.~Wood Mr.~Bell"),
    "teacher": people(girls="Miss~Kim Miss~May Mrs.~Lane", boys="Mr.~Park Mr.~Fox Mr.~Snow"),
    "colour": plain("red, blue, green, yellow, orange, purple, pink, white, brown, golden"),
    "number": plain("two, three, four, five, six, seven, eight, nine, ten"),
    # Things a child may hold, lose, share or wish for.
    "toy": table(
        "plural play",
        """
        ball | balls | threw it up and caught it again
        doll | dolls | combed its hair and sang to it
        teddy bear | teddy bears | gave it tea and told it secrets
        toy car | toy cars | rolled it over the floor
        toy train | toy trains | pulled it round and round
        toy truck | toy trucks | filled it with sand
        drum | drums | tapped on it with two sticks
        yo-yo | yo-yos | made it go up and down
        puppet | puppets | made it dance and talk
        toy robot | toy robots | made it walk across the room
        toy dinosaur | toy dinosaurs | made it stomp and roar
        toy boat | toy boats | let it float in a tub of water
        spinning top | spinning tops | made it spin on the table
        toy horse | toy horses | let it gallop over the bed
        """,
    ),
    "clothing": plain("hat, scarf, sweater, jacket, cap, raincoat"),
    "treasure": plain("coin, ring, key, necklace, shell, button, medal, marble, feather, little bell"),
    "fragile": plain("vase, bowl, teapot, lamp, plate, jug, glass bird, clock"),
    "tool": plain("stick, rope, ladder, broom, net, bucket, basket, rug"),
    "pole": plain("long stick, broom, rake, fishing rod, pole, umbrella, mop"),
    "digger": plain("spoon, shovel, stick, cup, bucket, spade"),
    "present": plain(
        "picture book, paper crown, clay bowl, bracelet, paper lantern, wooden boat, sock puppet, kite, mask, box of shells, "
        "little drum, painted stone, picture"
    ),
    # Food and drink.
    "fruit": table(
        "plural tree",
        """
        apple | apples | apple tree
        pear | pears | pear tree
        plum | plums | plum tree
        cherry | cherries | cherry tree
        peach | peaches | peach tree
        """,
    ),
    "treat": table(
        "plural",
        """
        cookie | cookies
        muffin | muffins
        pancake | pancakes
        cupcake | cupcakes
        sweet bun | sweet buns
        honey cake | honey cakes
        apple pie | apple pies
        jam tart | jam tarts
        """,
    ),
    "meal": plain("soup, pizza, rice, noodles, mashed potatoes, fish, chicken, beans, toast, salad"),
    "vegetable": table(
        "plural",
        """
        carrot | carrots
        pumpkin | pumpkins
        turnip | turnips
        cabbage | cabbages
        onion | onions
        potato | potatoes
        """,
    ),
    "drink": plain("milk, juice, hot cocoa, lemonade, water, tea"),
    # Animals. An `animal` lives free and can be a hero; a `pet` lives with a family.
    "animal": table(
        "plural went home food",
        """
        rabbit | rabbits | hopped | burrow | carrots
        fox | foxes | trotted | den | berries
        squirrel | squirrels | scurried | nest | nuts
        mouse | mice | scampered | hole | seeds
        otter | otters | waddled | river den | fish
        deer | deer | walked | thicket | fresh grass
        raccoon | raccoons | padded | hollow log | plums
        bear | bears | walked | cave | honey
        badger | badgers | shuffled | tunnel | roots
        chipmunk | chipmunks | scurried | hollow tree | corn
        """,
    ),
    "pet": table(
        "plural sound food",
        """
        kitten | kittens | meowed | milk
        puppy | puppies | barked | bones
        pony | ponies | neighed | oats
        parrot | parrots | squawked | seeds
        lamb | lambs | bleated | clover
        duckling | ducklings | quacked | bread
        """,
    ),
    "bird": plain("robin, sparrow, blue jay, crow, owl, dove, woodpecker"),
    "bug": table(
        "plural",
        """
        ladybug | ladybugs
        beetle | beetles
        snail | snails
        ant | ants
        caterpillar | caterpillars
        cricket | crickets
        grasshopper | grasshoppers
        worm | worms
        """,
    ),
    "elder": plain("turtle, toad, goose, goat, frog, stork"),
    # Places.
    "outdoors": table(
        "at",
        """
        the park | in the park
        the garden | in the garden
        the playground | at the playground
        the meadow | in the meadow
        the beach | at the beach
        the hill | on the hill
        the farm | on the farm
        """,
    ),
    "wild": table(
        "at",
        """
        the woods | in the woods
        the forest | in the forest
        the valley | in the valley
        the meadow | in the meadow
        the hills | in the hills
        """,
    ),
    "spot": plain(
        "under the bed, behind the sofa, under the table, behind the door, in the laundry basket, under a pillow, "
        "behind the curtain, in the toy box, on top of the bookshelf, inside a boot, in the bathtub, under the rug"
    ),
    "hiding": plain(
        "behind a big tree, under the bench, behind the shed, in a tall bush, under an old cart, inside a big box, "
        "behind the fence, behind a wall, behind a pile of hay, in the wagon"
    ),
    "wildspot": plain(
        "behind a big tree, in a tall bush, under a fern, behind a rock, in the tall grass, under some leaves, behind a stump, "
        "between the roots"
    ),
    "room": table(
        "at",
        """
        the kitchen | in the kitchen
        the living room | in the living room
        the bedroom | in the bedroom
        the attic | in the attic
        the hall | in the hall
        """,
    ),
    # Other small choices that a plot may have to remember.
    "hobby": table(
        "to",
        """
        drawing | draw
        singing | sing
        dancing | dance
        running | run
        climbing | climb
        reading | read
        swimming | swim
        painting | paint
        counting | count
        digging | dig
        """,
    ),
    "weekday": plain("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
}
