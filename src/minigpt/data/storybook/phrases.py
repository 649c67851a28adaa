"""Phrases for use in several plots. `<sad>` is about the hero, `<sad friend>` about another role (`{who}`).

A phrase can mention roles of the plot that uses it: all phrases can mention `{hero}`, and those for animals `{animal}`. Other
roles have a number, as in `{toy9}`, which distinguishes them from the roles of the plot.
"""

PHRASES: dict[str, str] = {
    # Openings, which introduce the hero, a child or an animal.
    "once child": """
        [[Once upon a time,|A long time ago,|Once,|Many years ago,|Not so long ago,] there [was|lived] a [[little|young
        |kind|happy|cheerful|curious] {hero.child}|{hero.child}] [named|called] {hero}.
        |In a [small|quiet|sunny|pretty|busy|friendly] [town|village|house] [by the sea|near the woods|on a hill|by a
        river|at the edge of a forest|between two hills] lived a {hero.child} named {hero}.
        |{hero} was a [little|small|kind|cheerful|busy|clever|curious|lively|dreamy|funny] {hero.child} who lived [with
        {his} [big |happy |]family|in a [red|white|yellow|tiny|cozy|crooked] house|near a [big|green|lovely|quiet]
        [park|lake]|on a farm].
        |There was once a {hero.child} [named|called] {hero} who [loved|liked] [to play outside|funny stories|to laugh
        |to sing|animals|to help at home|to ask questions|sunny days|to run and jump|to climb trees|rainy days
        |surprises].]""",
    "once animal": """
        [[Once upon a time,|A long time ago,|Once,|Many years ago,|Not so long ago,] there [was|lived] [a [little|young
        |kind|happy|friendly|curious] {animal}|{a animal}] [named|called] {hero}.
        |In a [small|quiet|green|deep|sunny|friendly] [forest|valley|wood] [by the sea |near a river |far from
        here |]lived a [little|young|cheerful|gentle|playful|clever] {animal} named {hero}.
        |{hero} was a [little|small|kind|cheerful|busy|clever|curious|lively|dreamy|funny] {animal} who lived in a
        [warm|cozy|tiny|tidy] {animal.home} [by a river|under an old tree|near a pond|at the edge of the woods|behind a
        waterfall].
        |Deep in the [woods|forest|green hills] there was a [warm|cozy|neat|round] {animal.home}, and in it lived a
        [little|small|young|happy] {animal} named {hero}.]""",
    # Days and weather.
    "one day": "[One day|One [sunny|bright|warm|fine|lovely|quiet|cool|golden] [day|morning|afternoon]|One {weekday9}]",
    "rainy day": "One [rainy|gray|wet|cold and rainy|stormy|dark and wet] [day|morning|afternoon]",
    "windy day": "One [windy|breezy|fresh and windy|cool and windy] [day|morning|afternoon]",
    "snowy day": "One [snowy|white|cold|frosty|icy] [winter |][day|morning]",
    "fine sky": """
        [The sun was [shining|warm|bright|high in the sky].
        |The sky was [blue|clear|bright blue|wide and blue] and the birds [were singing|sang|were happy|flew in
        circles].
        |A [soft|warm|gentle|light] wind [blew|played with the leaves|moved the grass|smelled of flowers].
        |[Butterflies|Bees|Dragonflies] [flew|danced] [from flower to flower|over the grass|in the air].
        |There was not [one|a single] cloud in the sky.
        |[Small|White|Round] clouds [sailed by|looked like sheep|looked like {animal8.plural}].]""",
    # Short words with many synonyms.
    "ran": "[ran|hurried|raced|rushed|dashed]",
    "went": "[went|walked|set off|strolled]",
    "big": "[big|large|great|huge]",
    "soon": "[Soon|After a while|A little later|Before long|After some time|A moment later]",
    "asked": "[asked|wanted to know|said]",
    "kindly": "[softly|kindly|gently|in a warm voice|in a quiet voice]",
    "called": "[said|called|cried]",
    "cried": "[cried|called|shouted]",
    # Details about people and animals, the way and the food, which make the stories more varied.
    "trait": """
        [{He} had [curly|short|long|straight|wild|soft] [black|brown|red|blond|dark] hair and [a loud laugh|bright eyes
        |a kind smile|a gap between {his} teeth|{number9} freckles on {his} nose|big ears|a warm heart|rosy cheeks].
        |{He} [always|often] wore {a colour9} {clothing9} and [liked|loved] to [hop on one foot|whistle|tell jokes
        |count the clouds|look at the stars|wave to the trains|collect stones|feed the birds|jump in puddles|make up
        songs].
        |{His} best toy was {a colour9} {toy9}, and {his} favorite food was {meal9}.
        |{He} [could|was able to] [jump very high|run like the wind|draw [cats|horses|ships|dragons]|sing like a bird
        |make everyone laugh|count to [twenty|a hundred]|stand on one leg], but {he} [could not whistle yet|did not
        like to get up|was a little shy|was never on time|did not like {vegetable9.plural}|was afraid of [thunder
        |spiders|geese]].
        |{He} was [four|five|six|seven] years old and [liked|loved] {hobby9}, [{treat9.plural}|old songs|puzzles|snow
        |riddles] and [the smell of rain|long stories|warm socks|bedtime kisses|bright colors|the sound of bells].
        |{He} had {a pet9} [named|called] {petname9}, and the two [went everywhere together|shared every secret|loved
        to run through the garden|slept side by side|watched the clouds together].]""",
    "animal trait": """
        [{He} had [soft|thick|shiny|smooth|warm] fur and [a long tail|a wet nose|little round ears|quick feet|a loud
        voice|big dark eyes|a white spot on {his} back|a kind smile].
        |{He} [always|often] wore {a colour9} {clothing9} and [liked|loved] to [roll in the leaves|look at the moon
        |smell the flowers|splash in the water|listen to the rain|lie in the sun|tell riddles|make up songs].
        |{His} favorite food was {animal.food}, but {he} also liked [mushrooms|blackberries|sweet roots|young leaves
        |acorns|pears].
        |{He} [could|was able to] [jump very high|run like the wind|climb any tree|smell the rain|hear a leaf fall
        |dance on two legs], but {he} [was a little shy|was never on time|did not like to get up|was afraid of thunder
        |often forgot things].
        |[Every morning|Every day|In the evening], {he} [washed {his} face|swept the {animal.home}|took a walk|sang a
        song] and [looked for {animal.food}|said hello to the sun|talked to the trees|ate some {animal.food}|visited
        the ducks].]""",
    "place": """
        [Behind {his} house|In the garden|Across the street|Next to the gate|At the end of the street] [stood|there
        was] [an old oak|a swing|a well|a red barn|a little bench|a tall {fruit9.tree}|a rose bush|a stone wall|a
        mailbox] [where {he} liked to sit|where {he} often played|where {number8} birds had a nest|that {he} liked very
        much|where {a colour8} cat liked to sleep|that was very old].""",
    "animal place": """
        [Near the {animal.home}|Behind the {animal.home}|Not far away|Down by the water] [stood|there was] [an old
        willow|a mossy rock|a fallen tree|a ring of mushrooms|a little bridge|a hazel bush|a tall pine] [where {he}
        liked to sit|where {he} often played|where {number8} {bug8.plural} lived|that {he} liked very much|where {a
        colour8} bird sang|that was very old].""",
    "way": """
        [[On the way|As {he} walked], {he} saw [{a bug9}|{a bird9}|{number9} {animal9.plural}|{a colour8} flower|an old
        bridge|a rainbow|a funny cloud|{number9} ducks] [and stopped to look|and waved|and said hello|by the road|in
        the grass|near a wall].
        |The road went [over a bridge|past a mill|up a hill|along a river|through tall grass] and [around a pond|past
        {number9} trees|down to a gate|by a little church|under a big oak|through a field of corn].]""",
    "snack": """
        [Then they|After that, they|Later they|In the end, they] [all |][sat down|sat in the sun|sat on the steps|sat
        close together] and had {treat8.plural} [and|with] {drink8}.""",
    "night": """
        [That night|In the evening|At bedtime|When it got dark], {hero} [drank a cup of {drink7}|ate a plate of {meal7}
        |washed {his} face|looked out of the window|put on warm pajamas|lay in bed] and [told {grownup} all about it
        |sang a quiet song|thought about the day|listened to the [wind|rain|crickets]|counted the stars]. [Then {he}
        slept|Soon {he} was asleep|"What a day," {he} said|{He} dreamed of [a garden|the sea|{treat7.plural}|flying|{a
        colour7} {pet7}|the moon]].""",
    "animal night": """
        [That night|In the evening|When it got dark|Under the stars], {hero} [drank a cup of {drink7}|ate some
        {animal.food}|washed {his} face|lay down in a soft bed|looked at the moon] and [sang a quiet song|thought about
        the day|listened to the [wind|rain|crickets|river]|counted the stars]. [Then {he} slept|Soon {he} was asleep
        |"What a day," {he} said|{He} dreamed of [a garden|the sea|{animal.food}|flying|the moon]].""",
    # Feelings.
    "glad": "[happy|glad|very happy|so happy|full of joy|very glad|as happy as could be]",
    "excited": """
        [{who} was [so|very] excited.
        |{who} could not wait.
        |{who} gave a little cheer.
        |{who} jumped up and down.
        |{who}'s eyes were [bright|shining|big and round].]""",
    "sad": """
        [{who} [was|felt] [sad|very sad|so sad|unhappy|miserable].
        |{who} wanted to cry.
        |[A|One] [big|small|single|warm] tear [ran|rolled|fell] down {who.his} [cheek|face|nose].
        |{who} [sat down|hung {who.his} head|looked at the ground] and [sighed|was very quiet|did not say a word].
        |{who}'s heart felt [heavy|heavy as a stone|small and cold].
        |{who} felt as if [the sun had gone out|all the colors were gone|it would never be a good day again].]""",
    "scared": """
        [{who} [was|felt] [scared|afraid|very scared|a little afraid].
        |{who.His} heart [beat fast|went thump, thump, thump|began to beat very fast].
        |{who} [shook|trembled] [like a leaf|from head to toe|all over].
        |{who} [did not dare to move|held {who.his} breath|shut {who.his} eyes tight|swallowed hard].]""",
    # Talking.
    "comfort": """
        ["[Do not|Please do not] [worry|be sad|cry]," said {who}. "[We will|We can|You and I will] [find a way|make it
        right|think of something|try together]."
        |"[Oh dear|Oh my|My dear|Poor you]," said {who}. "[Let us|We should] [think about it|sit down and think|take a
        deep breath first]."
        |{who} [put an arm around {him}|took {him} by the hand|gave {him} a soft pat|came very close] and said, "[It is
        all right|All will be well|I am here|I will help you]."]""",
    "thanks": """
        ["Thank you[| so much| very much], {who}!" [said|cried|called] {hero}.
        |{hero} [thanked {who}|said thank you to {who}] [again and again|with a big smile|with all {his} heart|and
        bowed].
        |"You are [so kind|a big help|the best|wonderful], {who}," said {hero}.
        |{hero} gave {who} a [big|warm|long|tight] hug.]""",
    "idea": """
        [Then {hero} had [an idea|a good idea|a clever idea|a little plan|a very good idea].
        |{hero} [thought and thought|scratched {his} head|closed {his} eyes to think|walked up and down], and [then|at
        last|after a while] {he} had an idea.
        |[Suddenly|All at once|In that moment], {hero} knew what to do.]""",
    # Endings.
    "end": """
        [That night, {hero} [fell asleep|went to bed|lay in bed] with a [big|happy|sleepy|warm|quiet] smile.
        |{hero} [sang|skipped|hummed a little song|smiled|danced|told jokes] all the way home.
        |It was [the best|a wonderful|a very good|a special] day, and {hero} [never forgot it|thought of it for a long
        time|told everyone about it|wanted to live it again].
        |And {hero} was [very happy|happy for the rest of the day|happy and proud|the happiest of all].
        |[When the stars came out|When it got dark|In the evening], {hero} told the [whole story|story of the day|story
        again] to [the moon|the stars|a good friend|anyone who would listen].
        |{hero} could not stop smiling [all day|until bedtime|all evening].
        |And if you [go there|walk by] [one day|today|on a quiet evening], you [can|may] [still hear {him} laugh|see
        {him} smile|hear {him} sing].]""",
    "together": """
        [From that day on,|After that day,|Since then,|Ever since,] {hero} and {who} [were [best|good|true] friends|did
        everything together|played together every [day|{weekday9}]|always helped each other|were never far apart|shared
        every {treat9}].""",
    "learned": """
        [{hero} learned
        |That day {hero} learned
        |And so {hero} learned
        |Now {hero} knew
        |{hero} never forgot
        |{hero} understood
        |From then on, {hero} knew
        |{hero} found out]""",
    "share lesson": """
        <learned> that [sharing makes [everyone happy|a good thing better|two people happy]|it is [good|nice|kind] to
        share|things are more fun when you share them|a friend is better than a thing|there is enough when we share].""",
    "try lesson": """
        <learned> that [you must [try again and again|not give up]|hard things get easier [day by day|when you try|with
        time]|[nobody|no one] can do everything at first|it is all right to make a mistake|every mistake is a [small
        |good] teacher].""",
    "truth lesson": """
        <learned> that [it is [best|always good|brave] to tell the truth|the truth makes the heart [light|feel light]
        |people trust you when you tell the truth|saying sorry can [help a lot|make things right]|a secret can be very
        heavy].""",
    "help lesson": """
        <learned> that [it feels [good|wonderful|warm] to help|even small friends can [do big things|be a big help]|a
        kind deed [comes back|is never lost|makes the world bright]|helping is better than [having|winning]|one small
        kindness can change [a whole day|everything]].""",
    "brave lesson": """
        <learned> that [being brave means [to try even when you are afraid|going on with a shaking heart]|many scary
        things are [small|friendly] when you [look|come] closer|a brave heart can be [very small|quiet]|it helps to
        hold somebody's hand].""",
    "dark lesson": "<learned> that [the dark is [not so bad|full of gentle things]|even the longest night has a morning].",
    "wait lesson": """
        <learned> that [good things take time|it is [good|wise] to wait|slow and careful is [often|sometimes] best|you
        cannot hurry [a flower|the sun|everything]|waiting can be full of joy].""",
    "care lesson": """
        <learned> that [it is [good|wise|important] to be careful|it is [good|wise] to listen [first|to Mom and Dad]
        |you should look before you [leap|run]|it is better to ask [first|before you do something]].""",
}
