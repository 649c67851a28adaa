"""Plots about friends."""

from minigpt.data.storybook.engine import Plot

PLOTS = {
    "one toy for two": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <place> {He} had a new {toy}. It was {colour} and [shiny|very nice|a present from
        {grownup}]. <one day>, {friend} came to play. "[May I play with your {toy}|Can I try the {toy}|Is that your
        {toy}? Can I hold it], please?" {friend.he} <asked>. "No! It is [mine|my {toy}|only for me]," said {hero} and
        [held it tight|hid it behind {his} back|turned away].

        {friend} [went home|sat alone on the steps|went away] [with a sad face|and said nothing|very slowly]. Now
        {hero} [had the {toy} all to {himself}|could play alone]. But [it was boring|it was not so much fun|the house
        was quiet]. <sad> "What is [wrong|the matter]?" asked {grownup2}. "[I was not nice to {friend}|I did not share
        |I think {friend} is sad]," said {hero}. "[What can you do about it|What would make it right|And what do you
        want to do now]?" {grownup2} <asked>.

        <idea> {He} <ran> to {friend}. "I am sorry," {he} said. "[Please come and play with me|You can have it first
        |Let us take turns|It is more fun with you]." {friend} [smiled|was not angry|took {his} hand]. Together they
        [took the {toy} to {outdoors}|made up a new game|made a house for the {toy}|played until it got dark]. <snack>
        [<share lesson>|<together friend>|<end>]
        """,
    ),
    "the new child": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <place> <one day>, a new {friend.child} came to {hero}'s class. "This is {friend}," said
        the teacher, {teacher}. {friend} [looked at the floor|had a red face|spoke so softly that nobody heard it|held
        {a toy} tight]. In the break, the other children [ran and played|played ball|jumped rope], but {friend} [stood
        alone by the fence|sat alone on the steps|stayed under the big tree].

        {hero} saw it. "[It must be hard to be new,|I know how that feels,|Why is nobody with {friend.him}?]" {he}
        thought. {He} [was shy, too|did not know what to say|wanted to go over, but {his} feet did not move]. Then {he}
        [took a deep breath|took out {his} {treat.plural}|had an idea] and went over to {friend}. "[Hello, I am {hero}
        |Hi! My name is {hero}|I am {hero}]. [Do you like {treat.plural}|Would you like {a treat}]?" {he} <asked>.
        {friend} [nodded|smiled a little|looked up]. "[I do not know anyone here|We came from far away|I miss my old
        house]," {friend.he} said.

        They [sat down and talked|talked and talked|shared the {treat.plural}]. {friend} [could draw {animal.plural}
        |could say the alphabet backward|could walk on {friend.his} hands|could play the flute], and {friend.he} showed
        it to {hero}. "[Can you teach me?|That is great!|Show me again!]" said {hero}. [Soon the others came, too|One
        by one, the others came to look], and {friend} [was not alone anymore|laughed out loud|told everyone
        {friend.his} name]. [After school|When the bell rang|At the gate], {friend} said, "[Today I found a friend|Now
        I like it here|See you tomorrow]!" [<together friend>|<help lesson>|<brave lesson>]
        """,
    ),
    "the lost pet": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> {He} had {a pet} named {petname}. {petname} was [white|brown|black] and [very funny|always
        hungry|full of tricks], and {petname.he} {pet.sound} when {hero} came home. <one day>, the gate was open, and
        {petname} was gone. {hero} [called and called|looked everywhere|ran up and down the street], but {petname} did
        not come. <sad>

        {hero} told {friend}. "[Four eyes see more than two|We will look together|I will help you look]," said
        {friend}. They [asked|went to] {neighbor}. "[I saw {petname.him} at the bridge|{petname.He} ran past my house|I
        heard something {hiding}]," {neighbor.he} said. They went on and [put up a picture of {petname} on every tree
        |rang a little bell|called {petname}'s name]. <way> [It got dark|It began to rain|The sun went down], and
        {hero} [was tired|wanted to give up|began to cry]. "[Just one more street|We must not give up|Let us think of
        what {petname.he} likes best]," {friend} said.

        "{pet.Food}!" <cried> {hero}. {friend} [ran home and got some {pet.food}|had an idea], and they put the
        {pet.food} [on a plate|in the grass|by the road] and [waited|sat very still|hid]. <soon>, something {pet.sound}
        {hiding2}. {petname} came out, [wet and dirty|with leaves all over|with a stick in {petname.his} mouth]! {hero}
        [held {petname.him} tight|hugged {petname.him}|laughed and cried]. <thanks friend> Now {he} always [shuts
        |closes] the gate. [<help lesson>|<try lesson>|<night>]
        """,
    ),
    "hide and seek": Plot(
        "hero: child, friend: child, third: child",
        """
        <once child> <trait> <one day>, {hero}, {friend} and {third} played hide and seek {outdoors.at}. <fine sky>
        {friend} [closed {friend.his} eyes|turned to a tree] and counted to [ten|twenty|fifty]. {hero} [was small and
        quick|wanted to find the best place of all|looked around] and hid {wildspot}. It was [a very good place|dark
        and cozy there|so good that no one could see {him}]. "[They will never find me|Today I will win|This is the
        best place]," {he} [thought|whispered].

        {friend} found {third} {wildspot2}. But nobody found {hero}. {He} [heard them call|heard steps, and then
        nothing|waited and waited]. [{A bug} walked over {his} hand.|{He} counted {number} {bug.plural}.|{His} leg fell
        asleep.] It got [cold|late|very quiet]. "[Did they go home|Did they forget me|Where are they all]?" {he}
        thought. <sad>

        Then {hero} heard {friend} say, "[We must find {hero}, it is getting dark.|I will not go home without {hero}.|I
        am worried. {hero}, where are you?]" {hero} [jumped up|came out|crawled out]. "Here I am!" {he} <cried>.
        {third} [hugged {him}|laughed|was so glad]. "[You won|What a good place|We looked everywhere]! [But please do
        not hide so long|We were worried about you|Show us your place]," said {friend}. {hero} [felt warm inside|was
        <glad>], for [winning is nice, but being found is nicer|the best part of hiding is to be found]. <snack>
        [<together friend>|<night>|<end>]
        """,
    ),
    "the birthday present": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> {His} best friend was {friend}. On {weekday}, it was {friend}'s birthday. {hero} wanted to
        buy {friend.him} {a colour} {toy}, but it cost [too much|ten coins], and {he} had only {number} [small coins
        |pennies]. {He} [looked into the shop window|counted {his} money again|turned {his} pockets inside out]. <sad>

        "[What should I do|I have no present|Everybody will have a present but me]," {he} said to {grownup}. "[Why not
        make one? What does {friend} love|A present from the heart is the best. What does {friend} like|What does
        {friend} love]?" {grownup} <asked>. "{friend} loves [stories about {animal.plural}|the sea|the stars|dancing],"
        said {hero}. <idea> {He} took [paper and glue|scissors and colors|wood and string], and [worked all afternoon
        |worked until dinner|did not stop until it was done]. {He} made {a present}.

        At the party, there were [big boxes with ribbons|many presents|balloons and a big cake]. {hero} held {his}
        present behind {his} back. "[It is only a small thing|I made it myself|I hope you like it]," {he} [whispered
        |said]. {friend} opened it and was quiet. Then {friend.he} [hugged {him}|beamed|jumped for joy]. "[You made
        this for me?|Nobody else has one like this!|It is the best present of all!]" {friend.he} said. {friend} kept it
        [by the bed|on the wall|in a safe place] for a very long time. <snack> [<learned> that [a present from the
        heart is the best one|time and love cost nothing].|<together friend>|<end>]
        """,
    ),
    "the school play": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> {teacher} said, "We will put on a play about {a animal} and {a animal2}. {hero}, you will
        be the {animal}." <excited> {hero} [learned {his} words every day|said {his} words to {his} {toy}|walked like
        {a animal} all week], and {grownup} made {him} {a colour} costume with [a long tail|big ears|a soft nose].
        {friend} was the {animal2}.

        <one day>, it was time for the play. The hall was full of [people|mothers and fathers]. {hero} looked [out from
        behind the curtain|at all the faces]. <scared> "[I forgot all my words|I cannot do it|My legs do not want to
        go]," {he} whispered. "[I am afraid, too|Look at me, not at them|Think of the {treat.plural} after the show],"
        said {friend}. "[We will go together|Take my hand|I will be right next to you]."

        Hand in hand they went out. It was [very bright|quite still]. {hero} opened {his} mouth, but nothing came out!
        {friend} [whispered the first word|winked|pressed {his} hand], and then {he} [remembered everything|said it
        loud and clear|began to speak]. Then {his} tail [fell off|got stuck in the door], and everybody laughed. {hero}
        laughed, too, and [bowed|danced|waved with it]. [At the end, the people clapped and clapped.|It was the best
        play the school had ever seen.] "[You were wonderful|I am so proud of you|What a brave {animal}]!" <called>
        {grownup} and gave {him} {a colour2} flower. [<brave lesson>|<thanks friend>|<night>]
        """,
    ),
    "the lemonade stand": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> {He} and {friend} wanted to buy {a colour} {toy} together. "[Let us sell lemonade|We can
        sell lemonade and {treat.plural}]!" <called> {hero}. It was a hot day. They put a table [in front of the house
        |by the road|under a tree], made a sign and [squeezed {number} lemons|filled a big jug|stirred and stirred].
        {grownup} was the first to buy a glass. "[Very good|Fresh and sweet|Mmm]!" {grownup.he} said.

        [Many people came|One by one, people came|They sold glass after glass], and the jar was soon [half full|full of
        coins]. Then {neighbor} [came by|walked up the road]. {neighbor.He} [looked sad|looked very tired|walked
        slowly]. "[My {pet} is sick, and the doctor costs so much|My roof has a hole, and the rain comes in|My old coat
        is torn, and it will be cold soon]," {neighbor.he} said. {hero} looked at {friend}, and {friend} looked at
        {hero}. They [both thought of the {toy}|thought of the same thing|were quiet for a moment].

        "[Please take this|This is for you|We want to help]," said {hero} and gave {neighbor.him} [the jar|all the
        coins]. "But that is your money!" said {neighbor}. "[You need it more than we do|The {toy} can wait|We can make
        more lemonade tomorrow]," said {friend}. {neighbor} [had tears in {neighbor.his} eyes|shook their hands|did not
        know what to say]. [A week later|Some days later|On {weekday}], there was a [box|parcel] at the door. [Inside
        was {a toy} made of wood, and it was {colour}|Inside were {number2} warm {treat2.plural}|Inside was {a
        treasure} for each of them], and a card: "[For two big hearts|Thank you, my friends|All is well again]. Your
        {neighbor}." <help lesson> [<end>|<night>]
        """,
    ),
    "the found treasure": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <one day>, {hero} [walked home from school|came back from {outdoors}|was on the way to
        {friend}]. <way> Then something [shone in the grass|sparkled between the stones|lay on the path]. It was {a
        treasure}, and it was [very pretty|old and fine|as bright as a star]! "[Now it is mine|I am so lucky|I found
        it, so I will keep it]," {he} [thought|said] and put it in {his} pocket.

        {He} showed it to {friend}. "[It is beautiful|Wow|How pretty]! [But somebody must miss it|I wonder whose it is
        |I think somebody lost it]," said {friend}. {hero} [did not want to hear it|shook {his} head|put {his} hand
        over it]. But that night {he} [could not sleep well|dreamed of somebody who searched and searched|lay awake].
        The {treasure} felt [heavy|cold] in {his} hand. In the morning, {he} saw {neighbor} [on {neighbor.his} knees in
        the grass|with a lamp, looking at the ground|walking up and down]. "I lost my {treasure}," said {neighbor}
        [sadly|with wet eyes|in a low voice]. "[My mother gave it to me|I have had it since I was small|It was a gift
        from an old friend]."

        {hero} [got a red face|swallowed hard|looked at {his} shoes]. It would be so easy to [say nothing|run away].
        But {he} [took a deep breath|thought of {friend}'s words] and held it out. "[I found it. I am sorry I did not
        ask|Here it is. I wanted to keep it]," {he} said. {neighbor} [hugged {him}|laughed for joy|held it to
        {neighbor.his} heart]. "[You have an honest heart|Thank you for telling the truth|You made an old heart
        happy]," {neighbor.he} said and [gave {him} {a fruit} from the garden|taught {him} to whistle|told {him} the
        story of the {treasure}]. <truth lesson> [<end>|<night>]
        """,
    ),
    "the tall tower": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <rainy day>, {hero} built a tower of [blocks|wooden bricks|boxes] {room.at}. It was [as
        tall as {a pet}|up to {his} nose|{number} floors high], and it had {a colour} roof. "[It will touch the ceiling
        |It is the tallest tower in the world|A king will live here]!" {he} said. Then {friend} [ran in|came in with
        {friend.his} {toy}|wanted to see it]. [Oops!|Bump!|Oh no!] {friend.His} [foot|arm|bag] hit the tower, and
        [crash|boom|clatter], it fell down.

        "[Look what you did|My tower|You broke it]!" <cried> {hero}. {He} was very angry. {His} face was [hot|red], and
        {he} wanted to [shout|throw a block|stamp {his} feet]. {friend} [stood there and did not move|had tears in
        {friend.his} eyes|looked at the floor]. "[I did not mean to|It was an accident|I am so sorry]," {friend.he}
        [whispered|said]. {hero} [ran out|turned away|hid under the table]. {grownup} came and sat down with {him}.
        "[You are angry, and that is all right|Count to ten with me|Breathe in and out, like the sea]," {grownup.he}
        said. "[Is {friend} your friend, or is the tower your friend|What do you want more, a tower or a friend]?"

        {hero} [counted to ten|breathed in and out|thought about it], and the anger got [smaller and smaller|as small
        as {a bug}]. {He} [went back|came out] to {friend}. "[I know you did not mean to|It is only a tower|I am sorry
        I shouted]," {he} said. "[Will you help me build a new one|Shall we build it again]?" {friend} [nodded and
        wiped {friend.his} nose|smiled at last]. They built [a bridge and {number2} towers|a whole town|a castle with a
        garden], and [this time it was even better|{friend}'s {toy} lived in it]. [<together friend>|<try lesson>
        |<learned> that [a friend is worth more than a tower|anger goes away when you wait].]
        """,
    ),
}
